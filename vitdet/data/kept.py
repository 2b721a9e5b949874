"""The folder where labels that vitdet converted are kept, and what is said when they have gone."""

from pathlib import Path

from vitdet.errors import DataError

# below the folder of the data
KEPT = ".vitdet"


def there(path: str) -> str:
    """A path of labels, as it is.

    Raises:
        DataError: it leads to labels that vitdet made of others, and that are no longer there.
    """
    kept = next((parent for parent in Path(path).parents if parent.name == KEPT), None)
    if kept is not None and not Path(path).exists():
        raise DataError(
            f"{path} has gone, which was made of the labels in {kept.parent}; say --data {kept.parent} to make it again"
        )
    return path
