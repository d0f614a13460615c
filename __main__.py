"""Loupe from a command line, in ComfyUI's folder and with its Python:

    python -m custom_nodes.ComfyUI-Loupe run     run a workflow over a folder of images (docs/headless.md)
    python -m custom_nodes.ComfyUI-Loupe report  compare Loupe with ComfyUI's own ways on your image and model (docs/report.md)
    python -m custom_nodes.ComfyUI-Loupe train   train a network for your VAE (docs/training.md)
"""

import sys


def use_comfyui() -> None:
    """Give ComfyUI's modules the options of a server on this machine, and keep them off our command line."""
    import comfy.options
    import torch

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True


def run(arguments: list[str]) -> int:
    from .headless.run import main

    return main(arguments, prog="python -m custom_nodes.ComfyUI-Loupe run")


def report(arguments: list[str]) -> int:
    from .headless.report.command import main

    return main(arguments, prog="python -m custom_nodes.ComfyUI-Loupe report")


def train(arguments: list[str]) -> int | None:
    use_comfyui()
    from .training.commands import COMMANDS

    if not arguments or arguments[0] not in COMMANDS:
        print(f"usage: train NAME ...\nNAME is one of: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]](arguments[1:])


def main(arguments: list[str]) -> int | None:
    command = {"run": run, "report": report, "train": train}.get(arguments[0] if arguments else None)
    if command is None:
        print(__doc__, file=sys.stderr)
        return 2
    return command(arguments[1:])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
