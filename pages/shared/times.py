"""Format times and sizes as text."""


def duration(seconds: float) -> str:
    """Return a duration as text, in hours, minutes and seconds or, below a second, in milliseconds."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def size(nbytes: float) -> str:
    """Return a size in megabytes or gigabytes as text."""
    megabytes = nbytes / 2**20
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"
