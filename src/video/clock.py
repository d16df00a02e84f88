"""Times in words."""


def clock(seconds: float) -> str:
    """Format a time as h:mm:ss, with tenths where there are some."""
    tenths = round(seconds * 10)
    text = f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}"
    return f"{text}.{tenths % 10}" if tenths % 10 else text
