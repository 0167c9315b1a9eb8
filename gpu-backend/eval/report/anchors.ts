import type { EvalReport } from './schema.ts';

type Anchor = EvalReport['anchors'][number];

const PAPER = 'Jiang et al. 2024, arXiv 2405.01483v2';
/** Printed rows of BLINK whose published prediction files lack most items of one of the 14 tasks. */
const INCOMPLETE = ['Idefics2', 'VILA'];
const INCOMPLETE_SOURCE = `there, ${INCOMPLETE.join(' and ')} from incomplete predictions`;

/** Table of multi-image results, percent. Single-image models with pictures merged into one, as the paper ran them. */
const MULTI_TASKS = ['nlvr2', 'qbench2', 'mantis-eval', 'blink', 'mvbench'] as const;
const MULTI = `
GPT-4V               88.80   76.52   62.67   51.14   43.50
Random               48.93   40.20   23.04   38.09   27.30
Kosmos-2             49.00   35.10   30.41   37.50   21.62
LLaVA-1.5            53.88   49.32   31.34   37.13   36.00
LLaVA-1.6            58.88   54.80   45.62   39.55   40.90
Qwen-VL-Chat         58.72   45.90   39.17   31.17   42.15
Fuyu                 51.10   49.15   27.19   36.59   30.20
BLIP-2               59.42   51.20   49.77   39.45   31.40
InstructBLIP         60.26   44.30   45.62   42.24   32.50
CogVLM               58.58   53.20   45.16   41.54   37.30
OpenFlamingo         36.41   19.60   12.44   39.18    7.90
Otter-Image          49.15   17.50   14.29   36.26   15.30
Idefics1             54.63   30.60   28.11   24.69   26.42
Video-LLaVA          56.48   45.70   35.94   38.92   44.30
Emu2-Chat            58.16   50.05   37.79   36.20   39.72
VILA                 76.45   45.70   51.15   39.30   49.40
Idefics2             86.87   57.00   48.85   45.18   29.68
Mantis-CLIP          84.66   66.00   55.76   47.06   48.30
Mantis-SigLIP        87.43   69.90   59.45   46.35   50.15
Mantis-Flamingo      52.96   46.80   32.72   38.00   40.83
Mantis-Idefics2      89.71   75.20   57.14   49.05   51.38`;

/** Table of single-image results, percent. */
const SINGLE_TASKS = ['textvqa', 'vqav2', 'mmbench', 'mmmu', 'okvqa', 'scienceqa', 'mathvista'] as const;
const SINGLE = `
OpenFlamingo-9B       46.3    58.0    32.4    28.7    51.4    45.7    18.6
Idefics1-9B           39.3    68.8    45.3    32.5    50.4    51.6    21.1
InstructBLIP-7B       33.6    75.2    38.3    30.6    45.2    70.6    24.4
Yi-VL-6B              44.8    72.5    68.4    39.1    51.3    71.7    29.7
Qwen-VL-Chat          63.8    78.2    61.8    35.9    56.6    68.2    15.5
LLaVA-1.5-7B          58.2    76.6    64.8    35.3    53.4    70.4    25.6
Emu2-Chat-37B         66.6    84.9    63.6    36.3    64.8    65.3    30.7
CogVLM-17B            70.4    82.3    65.8    32.1    64.8    65.6    35.0
Idefics2-8B           70.4    79.1    75.7    43.0    53.5    86.5    51.4
Mantis-CLIP           56.4    73.0    66.0    38.1    53.0    73.8    31.7
Mantis-SigLIP         59.2    74.9    68.7    40.1    55.4    74.9    34.4
Mantis-Idefics2       63.5    77.6    75.7    41.1    52.6    81.3    40.4`;

const NLVR_PAPERS = 'dev; Suhr et al. 2017, Tan & Bansal 2018, Yao et al. 2018, Goldman et al. 2018';
const OTHERS: { readonly [task: string]: readonly Anchor[] } = {
  nlvr: [
    { name: 'majority', value: 0.553, kind: 'random', source: NLVR_PAPERS },
    { name: 'CNN+RNN', value: 0.566, kind: 'model', source: NLVR_PAPERS },
    { name: 'module networks', value: 0.631, kind: 'model', source: NLVR_PAPERS },
    { name: 'CNN-BiATT', value: 0.669, kind: 'model', source: NLVR_PAPERS },
    { name: 'CMM', value: 0.68, kind: 'model', source: NLVR_PAPERS },
    { name: 'from the symbolic description, best', value: 0.857, kind: 'model', source: NLVR_PAPERS },
  ],
};

/** Published scores on a benchmark, best first; none for one that nobody published on. */
export function anchorsOf(task: string): Anchor[] {
  const found = [
    ...columnOf(MULTI_TASKS, MULTI, task),
    ...columnOf(SINGLE_TASKS, SINGLE, task),
    ...(OTHERS[task] ?? []),
  ];
  return found.sort((a, b) => b.value - a.value || (a.name < b.name ? -1 : 1));
}

/** @param table a line a model: its name, then a score a task */
function columnOf(tasks: readonly string[], table: string, task: string): Anchor[] {
  const column = tasks.indexOf(task);
  if (column < 0) return [];
  return table
    .trim()
    .split('\n')
    .map((line) => {
      const [name = '', ...scores] = line.split(/\s+/);
      return {
        name,
        value: Number((Number(scores[column]) / 100).toFixed(4)),
        kind: name === 'Random' ? 'random' : name.startsWith('Mantis') ? 'mantis' : 'model',
        source: task === 'blink' && INCOMPLETE.includes(name) ? INCOMPLETE_SOURCE : PAPER,
      };
    });
}
