// Draw on the page, and show the predictions of the networks.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PAUSE_MS = 8; // Compute for this long, then let the browser handle events.
const element = (id) => document.getElementById(id);
const canvas = element("canvas"), context = canvas.getContext("2d");
const pen = { x: canvas.width / 2, y: canvas.height / 2, down: false }; // moved by the keyboard

let strokes = [], undone = [], drawing = null, pointer = null;
let seen = null, generation = 0, networks = [];
let ink = new Raster(canvas.width, canvas.height);

// ---- drawing

function place(event) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  return [x * canvas.width / box.width, y * canvas.height / box.height];
}

function trace(stroke) {
  context.beginPath();
  context.moveTo(...stroke[0]);
  for (let n = 1; n < stroke.length; n++) {
    const [, control, to] = curve(stroke, n);
    context.quadraticCurveTo(...control, ...to);
  }
  const [x, y] = stroke.at(-1);
  context.lineTo(x + 0.01, y); // A single point becomes a dot.
  context.stroke();
}

function redraw() {
  context.clearRect(0, 0, canvas.width, canvas.height);
  const pencil = { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "black" };
  Object.assign(context, pencil);
  strokes.forEach(trace);
  const covered = ink.of(strokes), above = new Float64Array(covered.length);
  for (let n = 0; n < above.length; n++) above[n] = Math.max(0, (covered[n] - PAPER) / (1 - PAPER));
  see(centred(above, canvas.width, canvas.height));
}

// Redraw at most once per frame.
let due = false;
function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; redraw(); });
}

function begin(point) {
  drawing = [point];
  strokes.push(drawing);
  undone = [];
  changed();
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button > 0 || pointer !== null) return; // A second finger does not draw.
  pointer = event.pointerId;
  pen.down = false; // The stroke of the keyboard ends.
  showPen();
  canvas.setPointerCapture(pointer);
  begin(place(event));
});
canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const points = event.getCoalescedEvents?.() ?? [];
  drawing.push(...(points.length ? points : [event]).map(place));
  changed();
});
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
  canvas.addEventListener(end, (event) => {
    if (event.pointerId === pointer) drawing = pointer = null;
  });
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) {
    const [x, y] = ARROWS[event.key], far = event.shiftKey ? 2 : 10;
    pen.x = Math.min(canvas.width, Math.max(0, pen.x + far * x));
    pen.y = Math.min(canvas.height, Math.max(0, pen.y + far * y));
    if (pen.down) { drawing.push([pen.x, pen.y]); changed(); }
  } else if (event.key === " " || event.key === "Enter") {
    if (!event.repeat && pointer === null) {
      pen.down = !pen.down;
      if (pen.down) begin([pen.x, pen.y]);
      else drawing = null;
    }
  } else return;
  event.preventDefault();
  showPen();
});

function showPen() {
  const mark = element("pen");
  mark.style.left = `${100 * pen.x / canvas.width}%`;
  mark.style.top = `${100 * pen.y / canvas.height}%`;
  mark.classList.toggle("down", pen.down);
}

function drop(count) {
  drawing = pointer = null;
  pen.down = false;
  showPen();
  undone.push(...strokes.splice(Math.max(0, strokes.length - count)).reverse());
  ink = new Raster(canvas.width, canvas.height);
  redraw();
}

function redo() {
  if (!undone.length) return;
  strokes.push(undone.pop());
  redraw();
}
element("undo").addEventListener("click", () => drop(1));
element("clear").addEventListener("click", () => drop(Infinity));
document.addEventListener("keydown", (event) => {
  // AltGr, which types letters, is reported as Ctrl and Alt.
  if (event.altKey || !(event.ctrlKey || event.metaKey)) return;
  const key = event.key.toLowerCase();
  if (key === "z" && !event.shiftKey) drop(1);
  else if (key === "z" || (key === "y" && !event.metaKey && !event.shiftKey)) redo();
  else return;
  event.preventDefault();
});

// ---- predictions

function see(image, label = "") {
  seen = image;
  paint(element("seen"), image ?? new Uint8Array(SIDE * SIDE), SIDE, 1);
  element("label").textContent = label;
  predict();
}

// Let the browser handle other events. A timer would wait at least 4 ms.
const channel = new MessageChannel();
const pause = () => new Promise((resume) => {
  channel.port1.onmessage = resume;
  channel.port2.postMessage(null);
});

// Predict the digit with every network, those with the fewest MACs first. A newer image cancels the
// predictions for an older image.
async function predict() {
  const mine = ++generation, image = seen;
  element("said").textContent = "";
  if (!image) return networks.forEach((network) => show(network, null));
  let began = performance.now();
  for (const network of networks) {
    const runs = []; // the outputs of all layers, for each seed
    for (const layers of network.layers) {
      // Test images look like training images already. Only drawings are inverted.
      const inverted = network.dark && !element("label").textContent;
      const input = inverted ? image.map((value) => 255 - value) : image;
      const run = forward(layers, input, DATA.mean, DATA.deviation);
      let step = run.next();
      while (!step.done) {
        if (performance.now() - began > PAUSE_MS) {
          await pause();
          if (mine !== generation) return;
          began = performance.now();
        }
        step = run.next();
      }
      runs.push(step.value);
    }
    show(network, runs);
  }
  const said = networks.map(({ name, digit, sure }) => `${name}: ${digit}, ${percent(sure)}`);
  element("said").textContent = said.join("; ");
}

const decimals = (value) => (value > 0.9995 || value < 0.0995 ? 0 : 1);
const percent = (value) => `${(100 * value).toFixed(decimals(value))} %`;
const best = (values) => values.indexOf(Math.max(...values));

function show(network, runs) {
  const { row, seeds } = network, bars = row.querySelector(".bars");
  const each = runs?.map((outputs) => softmax(outputs.at(-1).values));
  const average = (n) => (each ? each.reduce((sum, p) => sum + p[n], 0) / each.length : 0);
  const mean = Array.from({ length: 10 }, (_, n) => average(n));
  Object.assign(network, { outputs: runs?.[0], each });
  network.digit = best(mean);
  network.sure = mean[network.digit];
  bars.querySelectorAll("i").forEach((bar, n) => (bar.style.height = `${100 * mean[n]}%`));
  bars.querySelectorAll("span").forEach((digit, n) => {
    digit.classList.toggle("best", Boolean(each) && n === network.digit);
  });
  const read = mean.map((p, n) => `${n}: ${percent(p)}`).join(", ");
  bars.setAttribute("aria-label", each ? read : "no prediction yet");
  row.querySelector(".digit").textContent = each ? network.digit : "";
  row.querySelector(".sure").textContent = each ? percent(network.sure) : "";
  const digits = each?.map((p, n) => [seeds[n], best(p)]) ?? [];
  const others = digits.filter(([, digit]) => digit !== network.digit);
  const text = others.map(([seed, digit]) => `seed ${seed} predicts ${digit}`).join(", ");
  row.querySelector(".others").textContent = text;
  const chosen = networks[element("which").value] === network;
  if (element("inside").open && chosen) showMaps(network);
}

// ---- inside

function paint(target, values, side, channels, channel = 0, low = 0, high = 255) {
  target.width = target.height = side;
  const pixels = new ImageData(side, side);
  for (let n = 0; n < side * side; n++) {
    const grey = high > low ? 255 * (values[n * channels + channel] - low) / (high - low) : 0;
    pixels.data.set([grey, grey, grey, 255], 4 * n);
  }
  target.getContext("2d").putImageData(pixels, 0, 0);
}

const MAX_MAPS = 64; // per layer
function showMaps({ outputs, layers }) {
  const figures = (outputs ?? []).map(({ side, channels, values }, n) => {
    const figure = document.createElement("figure");
    const text = document.createElement("figcaption");
    const { name } = layers[0][n], shown = Math.min(channels, MAX_MAPS);
    const first = shown < channels ? `, the first ${shown}` : "";
    text.textContent = `${name}: ${side}x${side}, ${channels} maps${first}`;
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    figure.append(text, ...Array.from({ length: shown }, (_, channel) => {
      const map = document.createElement("canvas");
      paint(map, values, side, channels, channel, low, high);
      return map;
    }));
    return figure;
  });
  element("maps").replaceChildren(...figures);
}
for (const [id, event] of [["inside", "toggle"], ["which", "change"]]) {
  element(id).addEventListener(event, () => {
    if (element("inside").open) showMaps(networks[element("which").value]);
  });
}

// ---- test digits

async function showDigits() {
  const images = new Uint8Array(await inflate(DATA.images));
  DATA.digits.forEach(({ index, label }, n) => {
    const image = images.subarray(SIDE * SIDE * n, SIDE * SIDE * (n + 1));
    const button = document.createElement("button");
    const picture = document.createElement("canvas");
    paint(picture, image, SIDE, 1);
    button.type = "button";
    button.setAttribute("aria-label", `image ${index}, labelled ${label}`);
    button.append(picture);
    button.addEventListener("click", () => {
      drop(Infinity);
      see(image, `image ${index}, labelled ${label}`);
    });
    element("digits").append(button);
  });
}

async function start() {
  networks = await unpack(DATA);
  networks.forEach((network, n) => (network.row = element(`network_${n}`)));
  networks.sort((a, b) => a.operations - b.operations);
  networks.forEach(({ name }, n) => element("which").append(new Option(name, n)));
  redraw();
  await showDigits();
  document.body.dataset.ready = "yes";
}
start().catch((error) => {
  element("failed").textContent = `This browser cannot run the networks: ${error.message}`;
});
