/**
 * Bar: thirty virtual days of cron have, in the real database, exactly the effects that an independent model gives them, however the ticks come.
 * `npm run bench -- cron [seeds]`; a few seconds a seed.
 */
import { SCHEDULES, type Schedule30, thirtyDays } from '../null/edge/schedules/thirty-days.ts';
import { randomOf } from '../null/edge/schedules/world.ts';

const ZONES = ['UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Kathmandu', 'Australia/Lord_Howe', 'Pacific/Apia'];
const POLICIES = ['run_once', 'skip', 'run_all'] as const;

/** Of some hundred slots a month, so that no record is too old to be kept. */
function randomSchedule(random: () => number): Schedule30 {
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  const minute = String(Math.floor(random() * 60));
  const hour = String(Math.floor(random() * 24));
  const cron = pick([
    `${minute} * * * *`,
    `${minute} ${hour} * * *`,
    `${minute} */${pick([2, 3, 4, 6])} * * *`,
    `*/${pick([10, 15, 20])} ${pick(['1-3', '0-2', '9-12'])} * * *`,
    `${minute} ${hour} * * ${pick(['0', '1-5', '6'])}`,
    `0 ${hour} ${pick(['1,15', '1-20', '25'])} * *`,
  ]);
  return { cron, time_zone: pick(ZONES), misfire: pick(POLICIES) };
}

const seeds = Number(process.argv[2] ?? 10);
const total = { seeds: 0, ticks: 0, schedules: 0, effects: 0, runs: 0, differences: 0 };
const failed: string[] = [];
for (let seed = 1; seed <= seeds; seed++) {
  const random = randomOf(seed * 7_919);
  const schedules = seed === 1 ? SCHEDULES : Array.from({ length: 8 }, () => randomSchedule(random));
  try {
    const { looks, effects, runs } = await thirtyDays(seed, schedules);
    total.ticks += looks;
    total.effects += effects;
    total.runs += runs;
    console.log(`seed ${seed}: ${looks} looks, ${effects} effects, ${runs} runs`);
  } catch (error) {
    total.differences++;
    failed.push(`seed ${seed}: ${error instanceof Error ? error.message.slice(0, 500) : String(error)}`);
    console.log(failed.at(-1));
  }
  total.seeds++;
  total.schedules += schedules.length;
}
console.log(JSON.stringify({ bench: 'cron', ...total, isMet: total.differences === 0, failed }));
if (failed.length > 0) process.exitCode = 1;
