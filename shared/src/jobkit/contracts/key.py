"""The key of a job: what it means in the sender's business, turned into the job's id."""


def checked_key(key: str, argument: str = "key") -> str:
    """Return ``key`` if it can tell one job from another.

    Args:
        key: What was given.
        argument: The name of the argument, for the errors.

    Raises:
        TypeError: The key is not text.
        ValueError: The key is empty or blank, so that all jobs would be one, or cannot be encoded in UTF-8.
    """
    if not isinstance(key, str):
        raise TypeError(f"{argument}={key!r} must be text, such as {argument}=f'invoice/{{number}}'")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        complaint = f"cannot be encoded in UTF-8: {error.reason} at character {error.start}"
        raise ValueError(f"{argument}={key!r} {complaint}") from None
    if not any(character.isprintable() and not character.isspace() for character in key):
        raise ValueError(
            f"{argument}={key!r} is blank: all jobs under it would be one and run once. Leave it out, or name the job"
        )
    return key
