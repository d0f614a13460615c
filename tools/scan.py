"""What the ComfyUI registry's scan and other public scanners take for danger in a file of the archive.

They read text without understanding it, comments and prose included, and the registry offers no version of which it
has said anything. Its rules are not published: these are the strings of the findings that it gives with
`api.comfy.org/nodes/NAME/versions?include_status_reason=true`.
"""

import re

FLAGGED = {
    "starting a program": r"subprocess|os\.system|os\.popen",
    "the environment": r"os\.environ|os\.getenv",
    "the network": r"urllib\.request|urlopen|http\.client|requests\.\w+\s*\(|aiohttp\s*\.\s*ClientSession|socket\.socket\s*\(|create_connection\s*\(",
    "a method of a socket, or named as one": r"\.(connect|bind|listen|send|sendall|sendto|recv|recvfrom|recv_into)\s*\(",
    "running text as code": r"\b(eval|exec)\s*\(|\bcompile\s*\(|__import__\s*\(",
    "importing by name": r"importlib\.import_module|sys\.modules",
    "an address of its list": r"raw\.githubusercontent\.com",
}


def findings(name: str, data: bytes) -> list[str]:
    """What a scan says of the file `name`: its line, what it is taken for, and the string. Weights and images are no text."""
    if b"\0" in data:
        return []
    return [
        f"{name}:{data.count(10, 0, found.start()) + 1}: {kind}: {found[0].decode()}"
        for kind, pattern in FLAGGED.items()
        for found in re.finditer(pattern.encode(), data)
    ]
