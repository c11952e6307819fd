"""Format times and sizes as text."""


def duration(seconds: float) -> str:
    """Return a duration in hours, minutes and seconds as text."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def size(nbytes: float) -> str:
    """Return a size in megabytes or gigabytes as text."""
    return f"{nbytes / 2**30:.1f} GB" if nbytes >= 2**30 else f"{nbytes / 2**20:.0f} MB"
