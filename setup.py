"""What pyproject.toml can't say: the wheel holds `configs/` as `vitdet/configs`, and the long description of PyPI has
whole addresses.

The address of the repository is that of the clone or of the GitHub action that builds; without one, links stay as they
are, and the metadata has no URLs.
"""

import os
import re
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]


class BuildPy(build_py):
    """Puts `configs/` into the package; an editable install reads them where they are."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self._configs():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def get_source_files(self):
        return [*super().get_source_files(), *(source for source, _ in self._configs())]

    def get_outputs(self, include_bytecode=1):
        own = [] if self.editable_mode else [target for _, target in self._configs()]
        return [*super().get_outputs(include_bytecode), *own]

    def _configs(self):
        for path in sorted((ROOT / "configs").rglob("*.yaml")):
            source = path.relative_to(ROOT)
            yield str(source), str(Path(self.build_lib, "vitdet", source))


def repository():
    """`https://github.com/OWNER/NAME`, or nothing where it is not known."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{name}"
    command = ["git", "-C", str(ROOT), "config", "--get", "remote.origin.url"]
    try:
        remote = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:
        return None
    found = re.fullmatch(r"(?:https://|(?:ssh://)?git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?", remote)
    return f"https://github.com/{found[1]}" if found else None


def absolute(text, address):
    """The README with links to files of the repository at this version as whole addresses, images as files."""
    files = address.replace("github.com", "raw.githubusercontent.com", 1)
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\g<1>{files}/v{VERSION}/", text)
    return re.sub(r"((?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\()(?![a-z]+:|#)", rf"\g<1>{address}/blob/v{VERSION}/", text)


def described():
    """The long description, and the URLs of the project."""
    text, address = (ROOT / "README.md").read_text(encoding="utf-8"), repository()
    if address is None:
        return {"long_description": text, "project_urls": {}}
    pages = f"{address}/blob/v{VERSION}"
    urls = {
        "Source": address,
        "Documentation": f"{pages}/docs/getting_started.md",
        "Changelog": f"{pages}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }
    return {"long_description": absolute(text, address), "project_urls": urls}


if __name__ in ("__main__", "__builtin__"):
    setup(cmdclass={"build_py": BuildPy}, long_description_content_type="text/markdown", **described())
