"""Circuit breakers: when what jobs depend on is down, they wait for it instead of using up their attempts."""
