"""RabbitMQ: topology, confirmed publishing, consuming, delays; and its stand-in in memory."""
