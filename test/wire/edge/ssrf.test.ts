/** No spelling of a private address, no name of one and no redirect to one makes the edge connect to it: for pictures and for webhooks. */
import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { checkTarget } from '../../../edge/egress/target.ts';
import { ADDRESSES } from '../../fixtures/egress/addresses.ts';

const HERE = dirname(fileURLToPath(import.meta.url));

type Outcome = { asked: number; canaries: string[]; publicHits: number };
type Report = {
  network: Outcome & { answered: number };
  imageDirect: Outcome & { passed: string[] };
  imageRedirect: Outcome & { passed: string[] };
  webhookDirect: Outcome & { accepted: string[] };
  webhookRedirect: Outcome;
  rebinding: Outcome & { questions: number };
  portScan: Outcome & { medianMs: Record<'open' | 'closed' | 'silent', number>; texts: string[] };
};

/** Why this machine lends no namespace of its own, or null. */
function cannotIsolate(): string | null {
  const { status, stderr } = spawnSync('unshare', ['-rmn', 'ip', 'link', 'set', 'lo', 'up'], { encoding: 'utf8' });
  return status === 0 ? null : `needs unshare and ip, and leave to make namespaces (${(stderr || 'not found').trim()})`;
}

describe('addresses', () => {
  it('are many, and by their spelling only names pass', () => {
    assert.ok(ADDRESSES.length >= 300, `${ADDRESSES.length}`);
    const passed = ADDRESSES.filter(({ url }) => !('problem' in checkTarget(url, new Set())));
    for (const { url, why } of passed)
      assert.match(why, /public name|fragment|user info in a fragment/, `${url}: ${why}`);
  });

  const reason = cannotIsolate();
  it('lead nowhere private, on a machine that listens everywhere', {
    skip: reason ?? false,
    timeout: 60_000,
  }, async () => {
    const { stdout } = await promisify(execFile)(
      'unshare',
      ['-rmn', process.execPath, '--import', import.meta.resolve('tsx'), join(HERE, 'ssrf-machine.ts')],
      { maxBuffer: 1 << 28 },
    );
    const report = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as Report;
    for (const [name, { asked, canaries }] of Object.entries(report) as [string, Outcome][]) {
      if (!/rebinding|portScan/.test(name)) assert.ok(asked >= 300, `${name}: ${asked} addresses`);
      assert.deepEqual(canaries, [], `${name}: connections to private addresses`);
    }
    assert.deepEqual(report.imageDirect.passed, []);
    assert.deepEqual(report.imageRedirect.passed, []);
    assert.deepEqual(
      report.webhookDirect.accepted.filter((url) => !/example\.com/.test(url)),
      [],
    );
    // Every name is asked for once a connection: what was judged is what is dialled.
    assert.ok(report.rebinding.questions >= report.rebinding.asked && report.rebinding.publicHits > 0);
    // Nothing tells a private target that listens from one that does not.
    assert.equal(report.portScan.texts.length, 1, report.portScan.texts.join('\n'));
    const { open, closed, silent } = report.portScan.medianMs;
    assert.ok(
      Math.max(open, closed, silent) < Math.min(open, closed, silent) + 20,
      JSON.stringify(report.portScan.medianMs),
    );
    // The listeners and the way to them are real: public addresses were reached, by name and without the look at spellings.
    assert.ok(report.network.publicHits > 0 && report.network.answered > 0);
    assert.ok(
      report.imageDirect.publicHits > 0 && report.imageRedirect.publicHits > 0 && report.webhookDirect.publicHits > 0,
    );
    assert.equal(report.webhookRedirect.publicHits, 0, 'a redirected webhook goes nowhere');
  });
});
