"""RabbitMQ, Redis, PostgreSQL and a mail catcher on free ports of this machine, for development and tests."""
