// Renders the avatars that travel with the package, and any number more, at any size.
//
//   npm install @dicebear/core@9.4.3 @dicebear/collection@9.4.3 @resvg/resvg-js
//   node make_avatars.mjs OUT SIZE PER_CLASS FIRST
//
// Writes OUT/<class>/<seed>.png for PER_CLASS seeds from FIRST on. A seed gives the same picture on every machine.
// The package has seeds 200 to 699 for training and 0 to 49 for validation. Shipped weights were trained on 200 to 2199.
import fs from 'node:fs';
import path from 'node:path';
import { createAvatar } from '@dicebear/core';
import * as styles from '@dicebear/collection';
import { Resvg } from '@resvg/resvg-js';

const CLASSES = {
  'adventurer': styles.adventurer,
  'big smile': styles.bigSmile,
  'dylan': styles.dylan,
  'lorelei': styles.lorelei,
  'micah': styles.micah,
  'miniavs': styles.miniavs,
  'notionists': styles.notionists,
  'personas': styles.personas,
  'pixel art': styles.pixelArt,
  'toon head': styles.toonHead,
};
const BACKGROUNDS = ['b6e3f4', 'c0aede', 'd1d4f9', 'ffd5dc', 'ffdfbf', 'c1f0c8', 'fff3b0'];

const [out, size, perClass, first = '0'] = process.argv.slice(2);
if (perClass === undefined) {
  console.error('usage: node make_avatars.mjs OUT SIZE PER_CLASS [FIRST]');
  process.exit(2);
}

function render(style, seed) {
  const svg = createAvatar(style, { seed, backgroundColor: BACKGROUNDS, size: 256 }).toString();
  return new Resvg(svg, { fitTo: { mode: 'width', value: Number(size) } }).render().asPng();
}

for (const [name, style] of Object.entries(CLASSES)) {
  fs.mkdirSync(path.join(out, name), { recursive: true });
  for (let k = Number(first); k < Number(first) + Number(perClass); k++) {
    const file = path.join(out, name, `${String(k).padStart(6, '0')}.png`);
    fs.writeFileSync(file, render(style, `${name} ${k}`));
  }
}
