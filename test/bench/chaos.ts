/**
 * `npm run bench -- chaos`: backends go from one to four to none to one under load, and a random one is killed (-9) every five seconds. Every request
 * must end in the answer that the model gives alone, or in an error that says it may be asked again; nothing may be left running.
 */
import { parseArgs } from 'node:util';
import { runChaos } from './chaos/run.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '180' },
    'kill-every': { type: 'string', default: '5' },
    clients: { type: 'string', default: '14' },
    max: { type: 'string', default: '4' },
    seed: { type: 'string', default: '1' },
  },
});
const report = await runChaos({
  seconds: Number(values.seconds),
  killEveryS: Number(values['kill-every']),
  clients: Number(values.clients),
  maxBackends: Number(values.max),
  seed: Number(values.seed),
  log: (line) => console.log(line),
});
const isPassed =
  report.violations.length === 0 &&
  report.orphans === 0 &&
  report.exitCode === 0 &&
  report.mostReady >= Number(values.max) &&
  report.sawNone &&
  report.sawOneAgain;
console.log(
  JSON.stringify({ bench: 'chaos', passed: isPassed, ...report, violations: report.violations.slice(0, 20) }),
);
process.exitCode = isPassed ? 0 : 1;
