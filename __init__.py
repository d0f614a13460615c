WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    # methods/ and models/ are imported without ComfyUI, by tests and training
    from .browser.extension import LoupeExtension

    return LoupeExtension()
