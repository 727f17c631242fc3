"use strict";
// Read the weights of the networks, scale and centre a drawing, and compute the predictions.

const SIDE = 28, BOX = 20, CENTRE = 14.5, PAPER = 0.25; // as in predict/digit.py

// Decode base64 and decompress zlib.
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Return the networks of DATA with the layers of every seed. The bytes are all float32 numbers,
// then all int8 numbers. They are little-endian, like every machine that runs a browser.
async function unpack(data) {
  const bytes = await inflate(data.weights);
  let nextFloat = 0, nextByte = 4 * data.floats;
  const floats = (count) => new Float32Array(bytes, 4 * ((nextFloat += count) - count), count);
  // Return a kernel [size, size, inputs, outputs]: integers times the scale of each output.
  const kernel = (size, inputs, outputs) => {
    const count = size * size * inputs * outputs, scale = floats(outputs);
    const integers = new Int8Array(bytes, (nextByte += count) - count, count);
    return Float32Array.from(integers, (value, n) => value * scale[n % outputs]);
  };
  for (const network of data.networks) {
    network.layers = network.seeds.map(() => {
      let channels = 1;
      return network.recipe.map((layer) => {
        if (!layer.conv) return layer;
        const size = layer.separable ? 1 : layer.kernel, own = { ...layer };
        own.mix = kernel(size, channels, layer.conv);
        if (layer.separable) own.filter = kernel(layer.kernel, 1, layer.conv);
        if (layer.batch_norm) [own.scale, own.shift] = [floats(layer.conv), floats(layer.conv)];
        channels = layer.conv;
        return own;
      });
    });
  }
  return data.networks;
}

// Return the outputs of all layers for an image of 28x28 numbers from 0 to 255: {side, channels,
// values}, with the values in the order rows, columns, channels. The values of the last layer are
// the logits. The generator yields after every row, so that the page can handle events.
function* forward(layers, image, mean, deviation) {
  const pixels = Float32Array.from(image, (value) => (value / 255 - mean) / deviation);
  let flow = { side: SIDE, channels: 1, values: pixels };
  const outputs = [];
  for (const layer of layers) {
    if (!layer.conv) flow = pool(flow, layer.pool, layer.size);
    else {
      const [size, padding] = layer.separable ? [1, 0] : [layer.kernel, layer.padding];
      flow = yield* convolve(flow, layer.mix, size, padding, layer.conv);
      if (layer.separable) flow = yield* filter(flow, layer.filter, layer.kernel, layer.padding);
      finish(flow, layer);
    }
    outputs.push(flow);
  }
  return outputs;
}

// Convolve. Zeros are skipped: after ReLU, half of the values are 0.
function* convolve({ side, channels, values }, kernel, size, padding, count) {
  const width = side + 2 * padding - size + 1, result = new Float32Array(width * width * count);
  const sums = new Float64Array(count);
  for (let row = 0; row < width; row++) {
    for (let column = 0; column < width; column++) {
      sums.fill(0);
      for (let i = 0; i < size; i++) {
        const y = row + i - padding;
        if (y < 0 || y >= side) continue;
        for (let j = 0; j < size; j++) {
          const x = column + j - padding;
          if (x < 0 || x >= side) continue;
          let from = (y * side + x) * channels, weight = (i * size + j) * channels * count;
          for (let channel = 0; channel < channels; channel++, weight += count) {
            const value = values[from++];
            if (value === 0) continue;
            for (let n = 0; n < count; n++) sums[n] += value * kernel[weight + n];
          }
        }
      }
      result.set(sums, (row * width + column) * count);
    }
    yield;
  }
  return { side: width, channels: count, values: result };
}

// Convolve each channel with its own kernel.
function* filter({ side, channels, values }, kernel, size, padding) {
  const width = side + 2 * padding - size + 1, result = new Float32Array(width * width * channels);
  const sums = new Float64Array(channels);
  for (let row = 0; row < width; row++) {
    for (let column = 0; column < width; column++) {
      sums.fill(0);
      for (let i = 0; i < size; i++) {
        const y = row + i - padding;
        if (y < 0 || y >= side) continue;
        for (let j = 0; j < size; j++) {
          const x = column + j - padding;
          if (x < 0 || x >= side) continue;
          const from = (y * side + x) * channels, weight = (i * size + j) * channels;
          for (let n = 0; n < channels; n++) sums[n] += values[from + n] * kernel[weight + n];
        }
      }
      result.set(sums, (row * width + column) * channels);
    }
    yield;
  }
  return { side: width, channels, values: result };
}

// Apply ReLU and the scale and shift of the batch norm, in place.
function finish({ channels, values }, { relu, scale, shift }) {
  for (let n = 0; n < values.length; n++) {
    const value = relu && values[n] < 0 ? 0 : values[n], channel = n % channels;
    values[n] = scale ? value * scale[channel] + shift[channel] : value;
  }
}

function pool({ side, channels, values }, kind, size) {
  const width = Math.floor(side / size), result = new Float32Array(width * width * channels);
  for (let row = 0; row < width; row++)
  for (let column = 0; column < width; column++)
  for (let n = 0; n < channels; n++) {
    let largest = -Infinity, sum = 0;
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) {
      const value = values[((row * size + i) * side + column * size + j) * channels + n];
      largest = Math.max(largest, value);
      sum += value;
    }
    result[(row * width + column) * channels + n] = kind === "max" ? largest : sum / size ** 2;
  }
  return { side: width, channels, values: result };
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((value) => value / sum);
}

// Scale ink, numbers from 0 to 1 in rows, into a box of 20x20 pixels, and put its centre of mass
// where MNIST has it. Return 28x28 integers from 0 to 255, or null if there is no ink. Each pixel
// is the mean of the area that it covers. `centred` in predict/digit.py is the same function.
function centred(ink, width, height) {
  const rows = new Float64Array(height), columns = new Float64Array(width);
  let total = 0;
  for (let row = 0, n = 0; row < height; row++)
  for (let column = 0; column < width; column++, n++) {
    if (!ink[n]) continue;
    rows[row] += ink[n];
    columns[column] += ink[n];
    total += ink[n];
  }
  if (!total) return null;
  const inked = (sum) => sum > 0;
  const span = (sums) => sums.findLastIndex(inked) - sums.findIndex(inked) + 1;
  const scale = Math.max(span(rows), span(columns)) / BOX;
  const [down, across] = [rows, columns].map((sums) => {
    const mass = sums.reduce((all, sum, n) => all + sum * (n + 0.5), 0) / total;
    return Array.from({ length: SIDE }, (_, n) => {
      const low = mass + scale * (n - CENTRE), high = low + scale, covered = [];
      for (let k = Math.max(0, Math.floor(low)); k < Math.min(sums.length, high); k++)
        covered.push([k, (Math.min(high, k + 1) - Math.max(low, k)) / scale]);
      return covered;
    });
  });
  const small = new Float64Array(SIDE * SIDE);
  down.forEach((ys, row) => {
    for (const [y, part] of ys) if (rows[y]) across.forEach((xs, column) => {
      let sum = 0;
      for (let k = 0; k < xs.length; k++) sum += xs[k][1] * ink[y * width + xs[k][0]];
      small[row * SIDE + column] += part * sum;
    });
  });
  const largest = small.reduce((a, b) => Math.max(a, b));
  return Uint8Array.from(small, (value) => Math.round((value / largest) * 255));
}
