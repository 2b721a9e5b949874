"""What `vitdet new` prints can be pasted into a shell, whatever the file is called."""

import shlex

from vitdet.cli import main


def test_the_next_command_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["new", "blood cells.yaml", "--from", "finetune"])
    said = capsys.readouterr().out.partition("next: ")[2]
    assert shlex.split(said)[:3] == ["vitdet", "train", "blood cells.yaml"]
    first = (tmp_path / "blood cells.yaml").read_text().splitlines()[0]
    assert shlex.split(first)[1:4] == ["vitdet", "train", "blood cells.yaml"]
