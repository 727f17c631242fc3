// Compute the ink of a drawing from its strokes. Browsers that resist fingerprinting falsify the
// pixels that a page reads from a canvas, so the page reads none.

// In pixels of the canvas: the diameter of the pen, and the maximum distance between a curve and
// its segments.
const PEN = 22, TOLERANCE = 0.02;

// A stroke starts with a line from its first point to the middle of the first two points. One curve
// follows for each further point, and a line to the last point.
const middle = ([x, y], [toX, toY]) => [(x + toX) / 2, (y + toY) / 2];
const joint = (stroke, n) => (n > 0 ? middle(stroke[n - 1], stroke[n]) : stroke[0]);
// Return the start, the control point and the end of a curve.
const curve = (stroke, n) => [joint(stroke, n - 1), stroke[n - 1], joint(stroke, n)];
const end = (stroke) => [joint(stroke, stroke.length - 1), stroke.at(-1)];

class Raster {
  constructor(width, height) {
    const settled = new Float32Array(width * height);
    Object.assign(this, { width, height, settled, strokes: 0, points: 1 });
  }

  // Return the share of each pixel that the pen covered, from 0 to 1. A call processes only the
  // points added since the last call, so create a new Raster after points were removed.
  of(strokes) {
    for (; this.strokes < strokes.length; this.strokes++, this.points = 1) {
      const stroke = strokes[this.strokes];
      for (; this.points < stroke.length; this.points++) {
        this.coverCurve(...curve(stroke, this.points));
      }
      if (this.strokes === strokes.length - 1) {
        const covered = this.settled.slice(); // The next point replaces the end of this stroke.
        this.coverLine(covered, ...end(stroke));
        return covered;
      }
      this.coverLine(this.settled, ...end(stroke));
    }
    return this.settled;
  }

  // Cover a quadratic Bézier curve by segments whose distance to the curve is at most TOLERANCE.
  coverCurve(from, control, to) {
    const at = (t) => [0, 1].map((n) => (
      (1 - t) * ((1 - t) * from[n] + 2 * t * control[n]) + t * t * to[n]
    ));
    const [x, y] = [0, 1].map((n) => from[n] - 2 * control[n] + to[n]);
    const count = Math.max(1, Math.ceil(Math.sqrt(Math.sqrt(x * x + y * y) / (4 * TOLERANCE))));
    for (let n = 0; n < count; n++) {
      this.coverLine(this.settled, at(n / count), at((n + 1) / count));
    }
  }

  // Cover a segment. The coverage of a pixel at the edge follows from the distance between the
  // pixel's centre and the edge.
  coverLine(covered, [fromX, fromY], [toX, toY]) {
    const reach = PEN / 2 + 0.5, inside = (reach - 1) ** 2, outside = reach ** 2;
    const across = toX - fromX, down = toY - fromY, square = across * across + down * down;
    const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach));
    const last = (a, b, size) => Math.min(size, Math.ceil(Math.max(a, b) + reach));
    const left = first(fromX, toX), right = last(fromX, toX, this.width);
    const bottom = last(fromY, toY, this.height);
    for (let row = first(fromY, toY); row < bottom; row++)
    for (let column = left; column < right; column++) {
      const x = column + 0.5 - fromX, y = row + 0.5 - fromY;
      const along = square && Math.min(1, Math.max(0, (x * across + y * down) / square));
      const awayX = x - along * across, awayY = y - along * down;
      const distance = awayX * awayX + awayY * awayY;
      if (distance >= outside) continue;
      const pixel = row * this.width + column;
      const value = distance <= inside ? 1 : reach - Math.sqrt(distance);
      if (value > covered[pixel]) covered[pixel] = value;
    }
  }
}
