"""The page of a report: one file that asks nothing of the network."""

from html import escape

from . import images

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
.row { display: grid; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); align-items: start }
.crops { overflow-x: auto; display: flex; gap: 8px }
figure { margin: 0 } figcaption { font-weight: 600 } .row img { width: 100% }
table { border-collapse: collapse; margin: 1em 0 } th, td { border: 1px solid #ccc; padding: 3px 10px; text-align: left; vertical-align: top }
.headline { font-size: 1.25em } .error { color: #a00; white-space: pre-wrap }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def text(value):
    return escape(str(value), quote=True)


def by(size):
    return f"{size[0]} x {size[1]}"


def gigabytes(count):
    return "not sampled" if count is None else f"{count / 2**30:.2f} GiB"


def table(rows, head=None):
    lines = [f"<tr>{''.join(f'<th>{text(cell)}</th>' for cell in head)}</tr>"] if head else []
    lines += [f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def figures(kind, shown, quality):
    parts = [f'<figure><figcaption>{text(name)}</figcaption><img alt="{text(name)}" src="{images.data_uri(image, quality)}"></figure>' for name, image in shown]
    return f'<div class="{kind}">{"".join(parts)}</div>'


def headline(report):
    done = {way["name"]: way for way in report["ways"] if way["seconds"] is not None}
    loupe, tiled = done.get("Loupe"), done.get("Ultimate SD Upscale")
    if loupe and tiled:
        return f"Near equal time: Loupe {loupe['seconds']:.1f} s, Ultimate SD Upscale {tiled['seconds']:.1f} s in {tiled['steps']} steps."
    return "No tiled upscaler at equal time: " + "; ".join(report["left out"].values() or ["it failed"]) + "."


def numbers(report):
    head = ("way", "seconds", "steps", "denoise", "network rows", "pixels of a row", "largest memory")
    rows = []
    for way in report["ways"]:
        seconds = "failed" if way["seconds"] is None else f"{way['seconds']:.1f}"
        if len(way["runs"]) > 1:
            seconds += f" (median of {', '.join(f'{one:.1f}' for one in way['runs'])})"
        counted = "not counted" if way["rows"] is None else f"{way['rows']:,} ({way['counted']})"
        rows.append((way["name"], seconds, way["steps"], way["denoise"], counted, by(way["row"]) if way["row"] else "", gigabytes(way["memory"])))
    return table(rows, head)


NOTES = """
<ul>
<li>Seconds are from the small image to the large one, with the model loaded: encode, sample, decode. Each way ran before it was timed, and no timed run took anything from the server's cache.</li>
<li>ComfyUI on the whole canvas has the same files, prompts, enlarged image, sampler, steps and guidance, and its denoise starts at the same noise as Loupe's Creativity (to a hundredth of denoise).</li>
<li>Ultimate SD Upscale has its defaults, tiles as large as Loupe's regions (its padding comes on top) and as many steps as come nearest to Loupe's time.</li>
<li>A network row is one image and one guidance branch in one network evaluation. Rows of different sizes do not cost the same.</li>
<li>Memory is what is in use on the whole device, other programs included, sampled five times a second: shorter peaks are missed.</li>
</ul>
"""


def page(report, shown, box):
    """HTML of the numbers in `report`. shown: [(name, image)] of one size. box: the crop that is shown at full size."""
    image, device = report["image"], report["device"]
    errors = "".join(f'<p class="error">{text(way["name"])} failed: {text(way["error"])}</p>' for way in report["ways"] if way["error"])
    left_out = "".join(f"<p>Left out: {text(name)}, because {text(why)}.</p>" for name, why in report["left out"].items())
    about = [
        ("image", f"{by(image['used'])}, enlarged to {by(image['result'])}" + (f"; shrunk first, it had {by(image['given'])}" if image["used"] != image["given"] else "")),
        ("model files", ", ".join(report["model files"]) or "the bundled ones"),
        *report["software"].items(),
        ("device", f"{device['name']}, {gigabytes(device['memory'])}; {gigabytes(device['in use before'])} in use before"),
        ("packs whose nodes ran", ", ".join(report["packs"])),
    ]
    title = f"Loupe report: {report['workflow']}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width"><title>{text(title)}</title><style>{STYLE}</style></head><body>
<h1>{text(title)}</h1>
<p class="headline">{text(headline(report))}</p>
<p>This page holds your image and its enlargements, the table below, and the settings with your prompts and the names of your model files. It holds no path, no user name and no metadata of your image, and nothing was sent anywhere: whether you send it is up to you.</p>
{errors}{left_out}
{numbers(report)}
<h2>The same {text(by((box[2] - box[0], box[3] - box[1])))} pixels at full size</h2>
{figures("crops", [(name, one.crop(box)) for name, one in shown], 95)}
<h2>The whole image</h2>
{figures("row", [(name, images.whole(one)) for name, one in shown], 88)}
<h2>What ran</h2>
{table(about)}
<h2>How to read it</h2>
{NOTES}
<details><summary>Settings</summary>{table(report["settings"].items())}</details>
</body></html>
"""
