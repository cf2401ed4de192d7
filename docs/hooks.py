"""Let the pages show the pictures of figures/, which lie beside docs/ so that the README can show them too."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pictures of figures/ to the files of the site."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / "figures").rglob("*.png")):
        files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write the pictures' place in the site instead of that in the repository."""
    return markdown.replace("](../figures/", "](figures/")
