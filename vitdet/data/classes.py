"""Which classes are trained and scored: a subset, merged classes, and categories of several files matched by name.

K is the number of classes. The label of a class is its position among the ascending category ids.
"""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vitdet.annotations.derived import Relabelled, Table
from vitdet.annotations.index import CocoIndex
from vitdet.errors import UserError


@dataclass
class Group:
    """The categories of a file that are a single class.

    Attributes:
        number: the smallest of their ids.
        name: the name of the class.
        thing: whether it is a thing.
        labels: the positions of the categories in the index of the file.
    """

    number: int
    name: str
    thing: bool
    labels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Choice:
    """What `data.classes` and `data.rename` say.

    Args:
        classes: the names of the classes that are kept, after the merging; `None` keeps all.
        rename: the new name of each category that gets another; those with equal new names are merged.

    Raises:
        UserError: a name is empty, or no text, or a class is listed twice.
    """

    classes: Sequence[str] | None = None
    rename: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in [*(self.classes or []), *self.rename, *self.rename.values()]:
            if not isinstance(name, str) or not name:
                raise UserError(f"data.classes and data.rename hold names of categories; got {name!r}")
        twice = [name for name, count in Counter(self.classes or []).items() if count > 1]
        if twice:
            raise UserError(f"data.classes lists {twice[0]!r} twice")
        if self.classes is not None and not self.classes:
            raise UserError("data.classes is empty; list the classes to keep, or leave it out to keep all")

    def groups(self, index: CocoIndex) -> list[Group]:
        """The classes of a file after the merging, in ascending order of their ids."""
        found: dict[object, Group] = {}
        merged = set(self.rename.values())
        for label, (number, old, thing) in enumerate(zip(index.category_ids, index.names, index.things)):
            name = self.rename.get(old, old)
            group = found.setdefault(name if name in merged else number, Group(number, name, thing))
            if group.thing != thing:
                kinds = "a thing" if thing else "stuff", "a thing" if group.thing else "stuff"
                raise UserError(
                    f"data.rename makes {name!r} of {old!r}, which is {kinds[0]}, and of another category, which is "
                    f"{kinds[1]}, in {index.path}; merge things with things, and stuff with stuff"
                )
            group.labels.append(label)
        return list(found.values())

    def kept(self, groups: list[Group]) -> list[Group]:
        """The groups of the classes that are kept.

        Raises:
            UserError: a class does not exist; the message names the nearest.
        """
        if self.classes is None:
            return groups
        names = [group.name for group in groups]
        for name in self.classes:
            if name in names:
                continue
            if name in self.rename:
                raise UserError(f"data.classes has {name!r}, which data.rename makes {self.rename[name]!r}; give that")
            raise UserError(f"data.classes has {name!r}, which is no class of the data; {nearest(name, names)}")
        return [group for group in groups if group.name in self.classes]

    def check_renamed(self, known: Sequence[str]) -> None:
        """Raises:
        UserError: a category to be renamed does not exist; the message names the nearest.
        """
        for name in self.rename:
            if name not in known:
                raise UserError(f"data.rename has {name!r}, which is no category of the data; {nearest(name, known)}")


def nearest(name: str, names: Sequence[str]) -> str:
    """The name that was probably meant, or the names that there are."""
    folded = {_folded(known): known for known in names}
    near = difflib.get_close_matches(_folded(name), folded, 1)
    return f"did you mean {folded[near[0]]!r}?" if near else f"there are {few(list(dict.fromkeys(names)))}"


def few(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _folded(name: str) -> str:
    """A name without what people write differently: case, spaces, hyphens and underscores."""
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def unify(opened: Mapping[str, Sequence[CocoIndex]], choice: Choice) -> dict[str, list[CocoIndex]]:
    """The indices of all files with the same classes: those of the first split, chosen and merged.

    A split may have several files. The classes are those of all files of the first split; a category of another file is
    the class of that name, whatever its id. An id is that of the first file that has the class, and the smallest of
    merged ones.

    Args:
        opened: the indices of the files of each split.
        choice: which classes are kept and merged.

    Returns:
        The indices, which are those of `opened` where nothing changes.

    Raises:
        UserError: a name in `choice` does not exist, or the categories of two files can't be matched.
    """
    choice.check_renamed([name for parts in opened.values() for part in parts for name in part.names])
    first, *_ = opened
    classes = choice.groups(opened[first][0])
    for index in opened[first][1:]:
        for group in choice.groups(index):
            if _match(group, classes, index) is None:
                taken = {known.number for known in classes}
                number = group.number if group.number not in taken else max(taken) + 1
                classes.append(Group(number, group.name, group.thing))
    classes = sorted(choice.kept(classes), key=lambda group: group.number)
    table = Table(*([getattr(group, key) for group in classes] for key in ("number", "name", "thing")))
    return {
        split: [_relabelled(part, table, choice, split, first) for part in parts] for split, parts in opened.items()
    }


def _match(group: Group, classes: Sequence[Group], index: CocoIndex) -> int | None:
    """The position of the class that has the name of a group, and its id where several have that name.

    Raises:
        UserError: several have that name, and none of them that id.
    """
    same = [i for i, known in enumerate(classes) if known.name == group.name]
    exact = [i for i in same if classes[i].number == group.number]
    if len(same) > 1 and not exact:
        raise UserError(
            f"{index.path} has the category {group.name!r} with id {group.number}, and there are several of that name, "
            f"with ids {', '.join(str(classes[i].number) for i in same)}; data.rename: "
            f"{{{group.name}: {group.name}}} makes them one"
        )
    return (exact or same or [None])[0]


def _relabelled(index: CocoIndex, table: Table, choice: Choice, split: str, first: str) -> CocoIndex:
    classes = [Group(*row) for row in zip(*table)]
    groups = choice.groups(index)
    label_of, moved, missing, left = [-1] * len(index.names), [], dict.fromkeys(range(len(classes))), []
    counts = np.bincount(index.categories, minlength=len(index.names))
    for group in groups:
        label = _match(group, classes, index)
        if label is None:
            left.append((group, int(counts[group.labels].sum())))
            continue
        missing.pop(label, None)
        if classes[label].number != group.number:
            moved.append(f"{group.name} {group.number} is {classes[label].number}")
        for old in group.labels:
            label_of[old] = label
    lacks = [classes[label] for label in missing]
    if len(lacks) == len(classes) and (choice.classes is None or split != first):
        names, wanted = ([group.name for group in groups] for groups in (groups, classes))
        raise UserError(
            f"no category of {index.path} ({split}) has the name of a class: it has {few(names) or 'none'}; wanted "
            f"{few(wanted)}. data.rename says which are the same"
        )
    _check_names(index, split, first, lacks, left, chosen=choice.classes is not None)
    lines = _lines(index, choice, split, first, moved=moved, lacks=[group.name for group in lacks])
    same = label_of == list(range(len(classes))) and (index.category_ids, index.names) == table[:2]
    if same and not lines:
        return index
    names = [group.name for group, count in left if count]
    chosen = choice.classes is not None
    reason = f"annotations left out, {'not in data.classes' if chosen else f'{first} has no such class'}: {few(names)}"
    return Relabelled(index, table, label_of, reason=reason, lines=lines, wanted=chosen)


def _lines(
    index: CocoIndex, choice: Choice, split: str, first: str, *, moved: Sequence[str], lacks: Sequence[str]
) -> list[str]:
    """What became of the categories of a file, as lines."""
    renamed = [name for name in index.names if name in choice.rename]
    lines = []
    for target in dict.fromkeys(choice.rename[name] for name in renamed):
        merged = [name for name in renamed if choice.rename[name] == target]
        lines.append(f"{few(merged)} {'are' if len(merged) > 1 else 'is'} called {target} (data.rename)")
    if moved:
        lines.append(f"categories matched by name, because their ids differ from those of {first}: {few(moved, 5)}")
    if lacks:
        what = "objects of it in these images are background" if split == first else "so it is not scored here"
        lines.append(f"no category {few(lacks)}: {what}")
    return lines


def _check_names(
    index: CocoIndex, split: str, first: str, lacks: list[Group], left: list[tuple[Group, int]], *, chosen: bool
) -> None:
    """Raises:
    UserError: a category that is no class has the id of a class that the file lacks, or its name, written otherwise.
    """
    differ = f"the categories of {split} differ from those of {first}"
    named = {_folded(group.name).removesuffix("s"): group.name for group in lacks}
    numbered = {group.number: group.name for group in lacks}
    for group, count in left:
        same = named.get(_folded(group.name).removesuffix("s"))
        if same is not None and count:
            raise UserError(
                f"{differ}: {index.path} has {count} annotations of {group.name!r}, and no category {same!r}; if these "
                f"are the same, set data.rename: {{{group.name}: {same}}}"
            )
    wrong = [f"{g.number}: {numbered[g.number]!r} and {g.name!r}" for g, _ in left if g.number in numbered]
    if wrong and not chosen:
        raise UserError(
            f"{differ}, by id: {few(wrong, 5)} ({index.path}); data.rename says which are the same, and data.classes "
            "which are kept"
        )
