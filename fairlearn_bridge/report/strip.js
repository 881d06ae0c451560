"use strict";
// The strip of examples: a slider moves the quantile, a menu chooses the scheme. What is drawn is what
// fairlearn_bridge.noise does: a pixel's level says at how many of the slider's steps its mask holds it.
(async () => {
  const strip = document.getElementById("strip");
  const slider = document.getElementById("strip-quantile");
  const menu = document.getElementById("strip-scheme");
  const said = document.getElementById("strip-said");
  const data = JSON.parse(document.getElementById("strip-data").textContent);
  const { width, height } = data;

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // The red, green, blue and opacity of each pixel.
  const pixels = async (source) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, width, height).data;
  };

  // Standard normal numbers, the same each time: only what the slider moves shall change.
  const normals = (seed, count) => {
    let state = seed;
    const uniform = () => {
      state = (state + 0x6d2b79f5) | 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
    return Float32Array.from({ length: count }, () =>
      Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
  };

  // A Gaussian blur as torchvision's: the weight of a transplant, whose edges are soft.
  const soften = (mask) => {
    const sigma = Math.max(Math.min(width, height) / 64, 0.5);
    const reach = Math.ceil(2 * sigma);
    const kernel = Array.from({ length: 2 * reach + 1 }, (_, at) => Math.exp(-0.5 * ((at - reach) / sigma) ** 2));
    const total = kernel.reduce((sum, weight) => sum + weight);
    const reflected = (at, size) => (at < 0 ? -at : at >= size ? 2 * size - 2 - at : at);
    const along = (values, index) => {
      const blurred = new Float32Array(values.length);
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++)
          for (let k = -reach; k <= reach; k++)
            blurred[y * width + x] += (kernel[k + reach] / total) * values[index(x, y, k)];
      return blurred;
    };
    const rows = along(mask, (x, y, k) => y * width + reflected(x + k, width));
    return along(rows, (x, y, k) => reflected(y + k, height) * width + x);
  };

  const maskOf = (example, reach, kind, step) => {
    if (reach === "general") return general.map((level) => level > step);
    const both = kind === "transplant";
    return example.levels.map((level, at) => level > step || (both && example.donorLevels[at] > step));
  };

  const changed = {
    mask: () => 127.5,
    noise: (example, at) => example.pixels[at] + 255 * data.noiseStd * example.noise[at],
    transplant: (example, at) => example.donor[at],
  };

  const perturb = (example, mask, kind) => {
    const weight = kind === "transplant" ? soften(mask) : mask;
    const picture = new ImageData(width, height);
    for (let at = 0; at < picture.data.length; at++) {
      const share = weight[at >> 2];
      // The fourth is the opacity. Rounding and staying within 0 to 255 is the array's doing.
      picture.data[at] = at % 4 === 3 ? 255
        : share === 0 ? example.pixels[at]
        : example.pixels[at] * (1 - share) + changed[kind](example, at) * share;
    }
    return picture;
  };

  const blackAndWhite = (mask) => {
    const picture = new ImageData(width, height);
    mask.forEach((marked, at) => picture.data.set([255 * marked, 255 * marked, 255 * marked, 255], 4 * at));
    return picture;
  };

  const draw = () => {
    const step = Number(slider.value);
    const [reach, kind] = menu.value.split("_");
    for (const example of examples) {
      const mask = maskOf(example, reach, kind, step);
      example.masked.putImageData(blackAndWhite(mask), 0, 0);
      example.perturbed.putImageData(perturb(example, mask, kind), 0, 0);
    }
    const quantile = step / Number(slider.max);
    const share = general.filter((level) => level > step).length / general.length;
    slider.setAttribute("aria-valuetext", quantile.toFixed(2));
    said.textContent = `Quantile ${quantile.toFixed(2)}: ${(100 * share).toFixed(0)} % of the pixels of each map are above it`;
  };

  const general = bytes(data.general);
  const examples = await Promise.all([...strip.querySelectorAll(".example")].map(async (card, number) => {
    const { levels, donor, donorLevels } = data.examples[number];
    const own = await pixels(card.querySelector("img").src);
    return {
      levels: bytes(levels),
      donorLevels: donorLevels && bytes(donorLevels),
      donor: donor && (await pixels(donor)),
      pixels: own,
      noise: normals(number + 1, own.length),
      masked: card.querySelector("canvas.mask").getContext("2d"),
      perturbed: card.querySelector("canvas.perturbed").getContext("2d"),
    };
  }));
  slider.addEventListener("input", draw);
  menu.addEventListener("input", draw);
  draw();
  document.documentElement.classList.add("live");
})();
