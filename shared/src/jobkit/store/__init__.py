"""Where a job's record lives: one Protocol, its implementations, and the types that they exchange."""
