import { readdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Row } from '../source/row.ts';

/** One of the 20 tasks. */
export interface MvBenchTask {
  readonly name: string;
  readonly file: string;
  /** Of its clips, under `video`. */
  readonly folder: string;
  /** Published as a folder of frames at so many a second; its first frame has number 1. */
  readonly framesPerSecond?: number;
  /** Its questions are about the part of a clip between `start` and `end`, seconds. */
  readonly isBounded: boolean;
}

const CHARADES = 'star/Charades_v1_480/';
const CLEVRER = 'clevrer/video_validation/';
const PERCEPTION = 'perception/videos/';

const task = (name: string, folder: string, isBounded = false): MvBenchTask => ({
  name,
  file: `${name.toLowerCase().replaceAll(/[ -]/g, '_')}.json`,
  folder,
  isBounded,
});

/** In the order of the paper, with the places of their clips in OpenGVLab's archives. */
export const mvBenchTasks: readonly MvBenchTask[] = [
  task('Action Sequence', CHARADES, true),
  task('Action Prediction', CHARADES, true),
  task('Action Antonym', 'ssv2_video/'),
  task('Fine-grained Action', 'Moments_in_Time_Raw/videos/'),
  task('Unexpected Action', 'FunQA_test/test/'),
  task('Object Existence', CLEVRER),
  task('Object Interaction', CHARADES, true),
  task('Object Shuffle', PERCEPTION),
  task('Moving Direction', CLEVRER),
  task('Action Localization', 'sta/sta_video/', true),
  task('Scene Transition', 'scene_qa/video/'),
  task('Action Count', PERCEPTION),
  task('Moving Count', CLEVRER),
  task('Moving Attribute', CLEVRER),
  task('State Change', PERCEPTION),
  task('Fine-grained Pose', 'nturgbd/'),
  task('Character Order', PERCEPTION),
  task('Egocentric Navigation', 'vlnqa/'),
  { ...task('Episodic Reasoning', 'tvqa/frames_fps3_hq/', true), framesPerSecond: 3 },
  task('Counterfactual Inference', CLEVRER),
];

export interface MvBenchClip extends MvBenchTask {
  /** Where the task's file is: `…/json/action_sequence.json`, with the clips in `…/video`. */
  readonly jsonPath: string;
  /** In place of `…/video`. */
  readonly videoFolder: string | null;
}

/**
 * The frames of a clip that are shown, in order. A clip is a folder of pictures named as the clip, with or without its ending; of a task with bounds it must hold
 * the `count` frames themselves, but for TVQA, whose frames are published at 3 a second.
 * @throws Error for raw video, which nothing here decodes, with the command that makes frames of it
 */
export async function mvBenchFrames(
  row: Row,
  clip: MvBenchClip,
  count: number,
): Promise<{ readonly folder: string; readonly names: readonly string[] }> {
  const video = row.text('video');
  const root = clip.videoFolder ?? join(dirname(dirname(clip.jsonPath)), 'video');
  const whole = join(root, clip.folder, video);
  const folders = [whole, whole.replace(/\.[A-Za-z0-9]+$/, '')];
  for (const folder of folders) {
    const kind = await stat(folder).catch(() => null);
    if (kind?.isDirectory() !== true) continue;
    const names = (await readdir(folder)).filter((name) => /\.(jpe?g|png|webp)$/i.test(name)).sort(byNumber);
    return { folder, names: chosen(row, clip, names, count) };
  }
  const isFile = (await stat(whole).catch(() => null))?.isFile() === true;
  throw new Error(
    isFile
      ? `${row.where('video')}: ${whole} is a video, and videos are not decoded here. Make the folder ${folders[1]} of its frames (${clip.isBounded ? `exactly ${count}, the middles of ${count} equal parts between start and end` : `exactly ${count}, or all of them: ffmpeg -i ${video} %05d.jpg`})`
      : `${row.where('video')}: expected the folder of frames ${folders[1]}, there is none`,
  );
}

function chosen(row: Row, clip: MvBenchClip, names: readonly string[], count: number): readonly string[] {
  if (names.length === count) return names;
  const refuse = (expected: string): never => {
    throw new Error(
      `${row.where('video')}: expected ${expected} in ${clip.folder}${row.text('video')}, there are ${names.length}`,
    );
  };
  if (names.length === 0) return refuse('frames (.jpg, .png, .webp)');
  if (clip.framesPerSecond !== undefined) {
    const bound = { start: row.number('start'), end: row.number('end') };
    const numbers = frameNumbers(count, names.length, clip.framesPerSecond, bound, 1);
    return numbers.map((number) => {
      const name = `${String(number).padStart(5, '0')}.jpg`;
      return names.includes(name) ? name : refuse(`frame ${name} (number ${number} of ${names.length})`);
    });
  }
  if (clip.isBounded) return refuse(`the ${count} frames of the part between start and end`);
  return frameNumbers(count, names.length - 1, 1, null, 0).map(
    (number) => names[number] ?? refuse(`frame ${number + 1}`),
  );
}

/**
 * Numbers of the frames that are shown: the published rule, with Python's rounding (halves to the even number).
 * @param last number of the last frame @param first number of the first one
 * @param bound seconds; null for the whole clip
 */
export function frameNumbers(
  count: number,
  last: number,
  framesPerSecond: number,
  bound: { readonly start: number; readonly end: number } | null,
  first: number,
): number[] {
  const start = bound === null ? first : Math.max(first, roundHalfEven(bound.start * framesPerSecond));
  const end = bound === null ? last : Math.min(roundHalfEven(bound.end * framesPerSecond), last);
  const part = (end - start) / count;
  return Array.from({ length: count }, (_, i) => Math.trunc(start + part / 2 + roundHalfEven(part * i)));
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** `2.jpg` before `10.jpg`; ties and names without numbers by their characters. */
function byNumber(a: string, b: string): number {
  const [x, y] = [a, b].map((name) => Number(/(\d+)\D*$/.exec(name)?.[1] ?? Number.NaN));
  if (x !== undefined && y !== undefined && x !== y && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return a < b ? -1 : a > b ? 1 : 0;
}
