#!/usr/bin/env python3
"""A sample training: runs anywhere with Python alone, and behaves as a training script for AutoTrainer should.

    python mock_train.py --name "Mock_Test_V1" --mode normal --mem 2.0

It prints its name, its CUDA_VISIBLE_DEVICES and epochs with a progress bar, holds the GPU memory asked for where PyTorch
or CuPy can be imported, and leaves a loss curve, `result_NAME.png`, in the working directory. `--mode oom` and
`--mode error` fail the way trainings fail. docs/training-scripts.md says what a script may rely on.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import signal
import struct
import sys
import time
import zlib

TICK_S = 0.1
FAILS_AFTER = 0.3  # of all epochs, in the modes that fail
BAR_WIDTH = 24


class OutOfMemoryError(RuntimeError):
    """What PyTorch would raise; shows as `torch.OutOfMemoryError` in the traceback."""


OutOfMemoryError.__module__ = "torch"


class Stopped(BaseException):
    """SIGTERM has come."""


def main():
    args = arguments()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, stop)
    report = LoadReport(args.mem)
    try:
        curve = train(args, report)
        path = save_curve(args.name, curve)
    except Stopped:
        say("\nSIGTERM received: stopping.")
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return 128 + signal.SIGINT
    finally:
        report.remove()
    say(f"Result: {path}")
    say("Training completed successfully.")
    return 0


def arguments():
    parser = argparse.ArgumentParser(description="A sample training for AutoTrainer.")
    parser.add_argument("--name", required=True, help="name of the training; goes into the log, the picture and its file name")
    parser.add_argument("--epochs", type=at_least(int, 1), default=10)
    parser.add_argument("--mode", choices=("normal", "oom", "error"), default="normal", help="how it ends")
    parser.add_argument("--mem", type=at_least(float, 0), default=1.0, metavar="GIB", help="GPU memory to hold (default 1.0)")
    parser.add_argument("--seconds", type=at_least(float, 0), default=6.0, metavar="S", help="how long to train (default 6)")
    return parser.parse_args()


def at_least(kind, least):
    def number(text):
        value = kind(text)
        if not least <= value < 1e9:
            raise ValueError(text)
        return value

    number.__name__ = f"number from {least} up"
    return number


def stop(signum, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # One is enough; others may follow while we leave.
    raise Stopped


def say(text, end="\n"):
    print(text, end=end, flush=True)


# --- the training -------------------------------------------------------------------------------------------------------


def train(args, report):
    """Prints what a training prints; the loss after each step and after each epoch."""
    say(f"Task Name: {args.name}")
    say(f"CUDA_VISIBLE_DEVICES: {os.environ.get('CUDA_VISIBLE_DEVICES', '(not set)')}")
    memory = hold_memory(args.mem)
    chance = random.Random(args.name)
    fails_at = max(1, int(args.epochs * FAILS_AFTER)) if args.mode != "normal" else None
    steps = max(6, min(100, int(args.seconds / args.epochs / TICK_S)))
    begin = time.monotonic()
    curve = Curve(args.epochs)
    curve.steps.append((0, loss_at(0)))
    for epoch in range(1, args.epochs + 1):
        for step in range(1, steps + 1):
            done = (epoch - 1 + step / steps) / args.epochs
            loss = loss_at(done) * chance.gauss(1, 0.03)
            curve.steps.append((done * args.epochs, loss))
            compute(memory)
            report.tell(done)
            time.sleep(max(0.0, begin + done * args.seconds - time.monotonic()))
            progress = bar(epoch, args.epochs, step / steps, loss, time.monotonic() - begin)
            say(f"\r{progress}", end="")
        validation = loss_at(epoch / args.epochs) * 1.08 + 0.03 + abs(chance.gauss(0, 0.02))
        curve.epochs.append((epoch, validation))
        line = f"Epoch {epoch}/{args.epochs} | Loss: {loss:.4f} | Val loss: {validation:.4f}"
        say(f"\r{line:<{len(progress)}}")
        if epoch == fails_at:
            fail(args.mode, args.mem)
    return curve


def loss_at(done):
    """A plausible loss when `done` (0 to 1) of the training is over."""
    return 2.1 * math.exp(-4.2 * done) + 0.14 + 0.16 * (1 - done)


def bar(epoch, epochs, part, loss, passed_s):
    full = "\u2588" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    filled = full * round(part * BAR_WIDTH)
    clock = f"{int(passed_s) // 60:02d}:{int(passed_s) % 60:02d}"
    return f"Epoch {epoch}/{epochs}: {part:4.0%}|{filled:<{BAR_WIDTH}}| [{clock}, loss={loss:.4f}]"


def fail(mode, mem):
    if mode == "error":
        raise ValueError("The loss is not finite any more (mock_train.py --mode error)")
    raise OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {max(mem, 0.5):.2f} GiB. GPU 0 has a total capacity of 23.64 GiB of which "
        "311.19 MiB is free. Including non-PyTorch memory, this process has 23.33 GiB memory in use. Of the allocated memory "
        "22.81 GiB is allocated by PyTorch, and 44.57 MiB is reserved by PyTorch but unallocated."
    )


def hold_memory(gib):
    """An array of this size on the first visible GPU, or None. Never a reason to fail."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not visible or not gib or not os.path.exists("/dev/nvidiactl"):
        return None  # Importing a framework takes seconds: not for nothing.
    for allocate in (with_torch, with_cupy):
        try:
            memory = allocate(int(gib * 2**30))
        except Exception as exc:  # Missing, broken, or too little memory: whatever a framework raises.
            say(f"No GPU memory held ({allocate.__name__}: {type(exc).__name__}).")
            continue
        say(f"Holding {gib:g} GiB of GPU memory.")
        return memory
    return None


def with_torch(size):
    import torch

    return torch.ones(size, dtype=torch.uint8, device="cuda")


def with_cupy(size):
    import cupy

    return cupy.ones(size, dtype=cupy.uint8)


def compute(memory):
    if memory is not None:
        memory += 1


class LoadReport:
    """Tells a simulated device what this process would use: "MiB percent" in a file named after the pid."""

    def __init__(self, gib):
        folder = os.environ.get("AUTOTRAINER_SIM_DIR", "")
        self.path = os.path.join(folder, str(os.getpid())) if folder else ""
        self.mib = round(gib * 1024)
        self.told_at = -math.inf

    def tell(self, done):
        now = time.monotonic()
        if not self.path or now - self.told_at < 0.5:
            return
        self.told_at = now
        memory = round(self.mib * min(1.0, 0.6 + 8 * done))  # The first steps fill it.
        percent = 88 + 6 * math.sin(now * 1.7) + 4 * math.sin(now * 0.6)
        try:
            replace_file(self.path, f"{memory} {percent:.0f}\n".encode())
        except OSError:
            self.path = ""

    def remove(self):
        try:
            os.unlink(self.path)
        except OSError:
            pass


def replace_file(path, data):
    """The whole file or none: nobody meets half of it."""
    folder, name = os.path.split(path)
    draft = os.path.join(folder, f".{name[:180]}.{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as f:
            f.write(data)
        os.replace(draft, path)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


# --- the picture --------------------------------------------------------------------------------------------------------

BACKGROUND, PANEL, GRID, AXIS = (13, 17, 23), (18, 24, 33), (35, 43, 56), (72, 84, 102)
TEXT, TRAIN, VALIDATION, YELLOW = (150, 161, 178), (86, 182, 255), (255, 122, 144), (255, 255, 0)
WIDTH, HEIGHT = 960, 540
LEFT, RIGHT, TOP, BOTTOM = 78, 36, 104, 62


class Curve:
    """(epoch, loss) after each step, and the validation loss after each epoch."""

    def __init__(self, epoch_count):
        self.epoch_count = epoch_count
        self.steps = []
        self.epochs = []


def save_curve(name, curve):
    """Draws `result_NAME.png` into the working directory; its absolute path."""
    safe = re.sub(r"[/\\\x00-\x1f\x7f]", "_", name)
    while len(os.fsencode(safe)) > 200:
        safe = safe[:-1]
    path = os.path.abspath(f"result_{safe}.png")
    picture = Picture(WIDTH, HEIGHT, BACKGROUND)
    draw_curve(picture, name, curve)
    replace_file(path, picture.png())
    return path


def draw_curve(picture, name, curve):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    top_loss = nice_ceiling(max(loss for _, loss in curve.steps + curve.epochs))

    def place(point):
        epoch, loss = point
        return LEFT + epoch / curve.epoch_count * (right - LEFT), bottom - loss / top_loss * (bottom - TOP)

    picture.fill(LEFT, TOP, right, bottom, PANEL)
    draw_axes(picture, curve.epoch_count, top_loss, place)
    steps = [place(point) for point in curve.steps]
    picture.shade_below(steps, bottom, TRAIN, 0.22)
    picture.line(steps, TRAIN, 2.2)
    validation = [place(point) for point in curve.epochs]
    picture.line(validation, VALIDATION, 2.2)
    if len(validation) <= 50:
        for point in validation:
            picture.line([point, point], VALIDATION, 7.5)
    scale = 4 if len(name) * 24 <= right - LEFT else 2
    longest = (right - LEFT) // (6 * scale)
    title = name if len(name) <= longest else name[: longest - 3] + "..."
    picture.text(LEFT, 26, title, YELLOW, scale)
    picture.text(LEFT, 70, f"loss over {curve.epoch_count} epochs, final validation loss {curve.epochs[-1][1]:.4f}", TEXT, 2)
    draw_legend(picture, right)


def draw_axes(picture, epoch_count, top_loss, place):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for part in range(6):
        loss = top_loss * part / 5
        y = round(place((0, loss))[1])
        picture.fill(LEFT, y, right, y + 1, AXIS if part == 0 else GRID)
        label = f"{loss:.2f}"
        picture.text(LEFT - 12 - 12 * len(label), y - 7, label, TEXT, 2)
    every = max(1, math.ceil(epoch_count / 10))
    for epoch in range(0, epoch_count + 1, every):
        x = round(place((epoch, 0))[0])
        picture.fill(x, TOP, x + 1, bottom, AXIS if epoch == 0 else GRID)
        picture.text(x - 6 * len(str(epoch)), bottom + 12, str(epoch), TEXT, 2)
    picture.text((LEFT + right) // 2 - 30, HEIGHT - 24, "epoch", TEXT, 2)


def draw_legend(picture, right):
    x, y = right - 152, TOP + 20
    for label, colour in (("training", TRAIN), ("validation", VALIDATION)):
        picture.line([(x - 34, y + 7), (x - 12, y + 7)], colour, 3)
        picture.text(x, y, label, TEXT, 2)
        y += 26


def nice_ceiling(value):
    """The least of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten that is not below `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if power * step >= value)


class Picture:
    """24-bit pixels, and as much drawing as a loss curve needs."""

    def __init__(self, width, height, colour):
        self.width, self.height = width, height
        self.pixels = bytearray(bytes(colour) * (width * height))

    def blend(self, x, y, colour, share):
        if not (0 <= x < self.width and 0 <= y < self.height):
            return
        at = 3 * (y * self.width + x)
        for i in range(3):
            old = self.pixels[at + i]
            self.pixels[at + i] = round(old + (colour[i] - old) * share)

    def fill(self, x0, y0, x1, y1, colour):
        for y in range(max(0, y0), min(self.height, y1)):
            self.pixels[3 * (y * self.width + x0) : 3 * (y * self.width + x1)] = bytes(colour) * (x1 - x0)

    def line(self, points, colour, thickness):
        """Antialiased: a pixel takes the colour as far as the line covers it. Two equal points are a dot."""
        covered = {}
        for start, end in segments(points):
            for pixel, share in near_segment(start, end, thickness / 2):
                covered[pixel] = max(share, covered.get(pixel, 0.0))
        for (x, y), share in covered.items():
            self.blend(x, y, colour, share)

    def shade_below(self, points, bottom, colour, strength):
        """From the line through `points` down to `bottom`, fading out."""
        for (x0, y0), (x1, y1) in segments(points):
            for x in range(math.ceil(x0), math.ceil(x1)):
                y_line = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
                for y in range(math.ceil(y_line), bottom):
                    self.blend(x, y, colour, strength * (1 - (y - y_line) / (bottom - y_line)) ** 2)

    def text(self, x, y, text, colour, scale):
        """Glyphs are 5 by 8 cells of `scale` (1, 2, 4) pixels, 6 cells apart."""
        for char in text:
            for row, cells in enumerate(glyph(char, scale)):
                for column, filled in enumerate(cells):
                    if filled:
                        self.blend(x + column, y + row, colour, 1)
            x += 6 * scale

    def png(self):
        stride = 3 * self.width
        rows = b"".join(b"\0" + self.pixels[y * stride : (y + 1) * stride] for y in range(self.height))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segments(points):
    return zip(points, points[1:])  # noqa: B905, RUF007 - trainings also run on Pythons that know neither


def near_segment(start, end, radius):
    """((x, y), share) of the pixels that a thick line from start to end covers."""
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    square = dx * dx + dy * dy
    for y in range(math.floor(min(y0, y1) - radius), math.ceil(max(y0, y1) + radius) + 1):
        for x in range(math.floor(min(x0, x1) - radius), math.ceil(max(x0, x1) + radius) + 1):
            along = min(1.0, max(0.0, ((x - x0) * dx + (y - y0) * dy) / square)) if square else 0.0
            share = radius + 0.5 - math.hypot(x - x0 - along * dx, y - y0 - along * dy)
            if share > 0:
                yield (x, y), min(1.0, share)


def glyph(char, scale):
    """Rows of booleans. Corners are smoothed at each doubling (Scale2x). A box stands for what the font does not have."""
    index = ord(char) - 32
    columns = bytes.fromhex(FONT[10 * index : 10 * index + 10] if 0 <= index < 95 else "7f4141417f")
    rows = [[bool(column >> bit & 1) for column in columns] for bit in range(8)]
    while scale > 1:
        rows = doubled(rows)
        scale //= 2
    return rows


def doubled(rows):
    """Scale2x, after Andrea Mazzoleni: each cell becomes four, and diagonal steps are rounded."""
    height, width = len(rows), len(rows[0])

    def cell(x, y):
        return 0 <= x < width and 0 <= y < height and rows[y][x]

    out = [[False] * (2 * width) for _ in range(2 * height)]
    for y in range(height):
        for x in range(width):
            up, left, right, down = cell(x, y - 1), cell(x - 1, y), cell(x + 1, y), cell(x, y + 1)
            corners = [rows[y][x]] * 4
            if up != down and left != right:
                sides = ((up, left), (up, right), (down, left), (down, right))
                corners = [a if a == b else rows[y][x] for a, b in sides]
            out[2 * y][2 * x : 2 * x + 2] = corners[:2]
            out[2 * y + 1][2 * x : 2 * x + 2] = corners[2:]
    return out


# Printable ASCII from the space on: five columns a character, the lowest bit on top.
FONT = (
    "0000000000" "00005f0000" "0007000700" "147f147f14" "242a7f2a12" "2313086462" "3649552250" "0005030000"
    "001c224100" "0041221c00" "082a1c2a08" "08083e0808" "0080703000" "0808080808" "0060600000" "2010080402"
    "3e5149453e" "00427f4000" "4261514946" "2141454b31" "1814127f10" "2745454539" "3c4a494930" "0171090503"
    "3649494936" "064949291e" "0036360000" "0080763600" "0814224100" "1414141414" "0041221408" "0201510906"
    "324979413e" "7e1111117e" "7f49494936" "3e41414122" "7f4141221c" "7f49494941" "7f09090901" "3e4149497a"
    "7f0808087f" "00417f4100" "2040413f01" "7f08142241" "7f40404040" "7f020c027f" "7f0408107f" "3e4141413e"
    "7f09090906" "3e4151215e" "7f09192946" "4649494931" "01017f0101" "3f4040403f" "1f2040201f" "3f4038403f"
    "6314081463" "0708700807" "6151494543" "007f414100" "0204081020" "0041417f00" "0402010204" "4040404040"
    "0001020400" "2054545478" "7f48444438" "3844444420" "384444487f" "3854545418" "087e090102" "18a4a49c78"
    "7f08040478" "00447d4000" "4080847d00" "7f10284400" "00417f4000" "7c04180478" "7c08040478" "3844444438"
    "fc18242418" "18242418fc" "7c08040408" "4854545420" "043f444020" "3c4040207c" "1c2040201c" "3c4030403c"
    "4428102844" "4c9090907c" "4464544c44" "0008364100" "00007f0000" "0041360800" "0804081008"
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
