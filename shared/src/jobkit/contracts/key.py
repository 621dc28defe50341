"""The key of a job: what it means in the sender's business, turned into the job's id."""


def checked_key(key: str) -> str:
    """Return ``key`` if it can tell one job from another.

    Raises:
        TypeError: The key is not text.
        ValueError: The key is empty or blank, so that all jobs would be one, or cannot be encoded in UTF-8.
    """
    if not isinstance(key, str):
        raise TypeError(f"key={key!r} must be text, such as key=f'invoice/{{number}}'")
    if not any(character.isprintable() and not character.isspace() for character in key):
        raise ValueError(
            f"key={key!r} is blank: all jobs under it would be one and run once. Leave it out, or name the job"
        )
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"key={key!r} cannot be encoded in UTF-8: {error.reason} at character {error.start}") from None
    return key
