"""Folders of weights among ComfyUI's models, and the files that a node takes from one."""

from __future__ import annotations

from pathlib import Path


def register_folder(folder: str) -> None:
    """Let ComfyUI know models/<folder>; folders of extra_model_paths.yaml and of other packs stay."""
    import folder_paths

    folder_paths.add_model_folder_path(folder, str(Path(folder_paths.models_dir) / folder))
    # A new kind of folder lists every file. Pickles stay listed: choosing one gives the error that tells the remedy.
    folder_paths.folder_names_and_paths[folder][1].update(folder_paths.supported_pt_extensions)


def file_names(folder: str) -> list[str]:
    """What the folder holds, for a combo."""
    import folder_paths

    return folder_paths.get_filename_list(folder)


def fingerprint(folder: str, name: str) -> str:
    """What changes when the file does."""
    import folder_paths

    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return name
    facts = Path(path).stat()
    return f"{facts.st_size}/{facts.st_mtime_ns}"  # not the path: it would be written into every saved clip


def path_of(folder: str, name: str, node: str) -> str:
    """The file's path. Raises FileNotFoundError, naming the node."""
    import folder_paths

    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise FileNotFoundError(
            f"{node}: there is no {name!r} in models/{folder}; put the file there and press R on the page to refresh "
            "the list"
        )
    return path
