"""What is wrong with a data set, in one line that names the file and the row."""


class DataError(ValueError):
    """The user's data cannot be used as they are; nothing has been started yet."""
