WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    # methods/ and models/ are imported without the host, by tests and training
    from .nodes import LoupeExtension

    return LoupeExtension()
