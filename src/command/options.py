"""Checks of texts that are given as options."""


def require_text(option: str, text: str, hint: str) -> None:
    """Refuse a text that is empty or can't be read.

    Args:
        option: Where it was given, such as `--text`.
        text: What was given.
        hint: What to give, for the message.

    Raises:
        ValueError: It is empty, or its bytes are not in the terminal's encoding.
    """
    if not text.strip():
        raise ValueError(f"{option} is empty: {hint}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{option} {text!r} can't be read as text: type it in the terminal's encoding, UTF-8 for most"
                         ) from error
