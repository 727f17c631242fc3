// The ink of a drawing, computed from its strokes. It is not read back from a canvas: browsers that resist fingerprinting
// falsify the pixels that a page reads.

// In pixels of the canvas: the diameter of the pen, and how far the segments of a curve may be from it.
const PEN = 22, TOLERANCE = 0.02;

// A stroke is a line from its first point to the middle of the first two, one curve for each further point, and a line to
// its last point.
const middle = ([x, y], [toX, toY]) => [(x + toX) / 2, (y + toY) / 2];
const joint = (stroke, n) => (n > 0 ? middle(stroke[n - 1], stroke[n]) : stroke[0]);
const curve = (stroke, n) => [joint(stroke, n - 1), stroke[n - 1], joint(stroke, n)]; // start, control point, end
const end = (stroke) => [joint(stroke, stroke.length - 1), stroke.at(-1)];

class Raster {
  constructor(width, height) {
    Object.assign(this, { width, height, settled: new Float32Array(width * height), strokes: 0, points: 1 });
  }

  // Return how much of each pixel the pen covered, from 0 to 1. Only what strokes gained since the last call takes time, so
  // a new raster is needed when strokes lose a point.
  of(strokes) {
    for (; this.strokes < strokes.length; this.strokes++, this.points = 1) {
      const stroke = strokes[this.strokes];
      for (; this.points < stroke.length; this.points++) this.coverCurve(...curve(stroke, this.points));
      if (this.strokes === strokes.length - 1) {
        const covered = this.settled.slice(); // The next point will replace the end of this stroke.
        this.coverLine(covered, ...end(stroke));
        return covered;
      }
      this.coverLine(this.settled, ...end(stroke));
    }
    return this.settled;
  }

  // Cover a quadratic Bézier curve by segments: by enough of them that none is farther away than TOLERANCE.
  coverCurve(from, control, to) {
    const at = (t) => [0, 1].map((n) => (1 - t) * ((1 - t) * from[n] + 2 * t * control[n]) + t * t * to[n]);
    const [x, y] = [0, 1].map((n) => from[n] - 2 * control[n] + to[n]);
    const count = Math.max(1, Math.ceil(Math.sqrt(Math.sqrt(x * x + y * y) / (4 * TOLERANCE))));
    for (let n = 0; n < count; n++) this.coverLine(this.settled, at(n / count), at((n + 1) / count));
  }

  // Cover a segment. How much of a pixel at the edge is covered follows from the distance between its centre and the edge.
  coverLine(covered, [fromX, fromY], [toX, toY]) {
    const reach = PEN / 2 + 0.5, inside = (reach - 1) ** 2, outside = reach ** 2;
    const across = toX - fromX, down = toY - fromY, square = across * across + down * down;
    const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach));
    const last = (a, b, size) => Math.min(size, Math.ceil(Math.max(a, b) + reach));
    const left = first(fromX, toX), right = last(fromX, toX, this.width), bottom = last(fromY, toY, this.height);
    for (let row = first(fromY, toY); row < bottom; row++) for (let column = left; column < right; column++) {
      const x = column + 0.5 - fromX, y = row + 0.5 - fromY;
      const along = square && Math.min(1, Math.max(0, (x * across + y * down) / square));
      const awayX = x - along * across, awayY = y - along * down, distance = awayX * awayX + awayY * awayY;
      if (distance >= outside) continue;
      const pixel = row * this.width + column, value = distance <= inside ? 1 : reach - Math.sqrt(distance);
      if (value > covered[pixel]) covered[pixel] = value;
    }
  }
}
