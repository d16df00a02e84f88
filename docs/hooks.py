"""MkDocs hooks: links for griffe, the pages of the reference, and a check that every public name is documented."""

import shutil
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads hooks by path

from reference import PAGES, public_objects, undocumented, write_page  # noqa: E402 (needs the line before)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay the package out as Python sees it: griffe reads files and doesn't know `package_dir` of setup.cfg.

    Raises:
        PluginError: A public name has no docstring; lists all.
    """
    package = ROOT / "build" / "docs-package" / "egovlpv2"
    shutil.rmtree(package.parent, ignore_errors=True)
    package.mkdir(parents=True)
    for source in [*(ROOT / "src").iterdir(), ROOT / "data_modules", ROOT / "tasks"]:
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    if missing := [name for page in PAGES for found in public_objects(page) for name in undocumented(found)]:
        raise PluginError("public names without a docstring: " + ", ".join(missing))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference, one for each entry of `PAGES`."""
    for page in PAGES:
        files.append(File.generated(config, f"reference/{page.name}.md", content=write_page(page)))
    return files
