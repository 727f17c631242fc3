"""Drawing on the page by the mouse of any browser."""

SEEN = "Array.from(seen ?? [])"
ANSWERED = "(document.getElementById('said').textContent !== '')"


def canvas_box(opened) -> tuple[float, float, float]:
    """Return the left, top and width of the canvas in the window."""
    opened.run("window.scrollTo(0, 0)")
    return tuple(
        opened.run("(({left, top, width}) => [left, top, width])(canvas.getBoundingClientRect())")
    )


def draw(opened, points, wait: bool = True) -> None:
    """Draw one stroke by the mouse through points, which are fractions of the canvas.

    With `wait`, return after the page has looked at the drawing.
    """
    left, top, width = canvas_box(opened)
    places = [(left + width * x, top + width * y) for x, y in points]
    opened.mouse("Pressed", *places[0])
    for place in places[1:]:
        opened.mouse("Moved", *place)
    opened.mouse("Released", *places[-1])
    if wait:
        opened.run(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
