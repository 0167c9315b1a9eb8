import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { FakeEcs } from './fake-ecs.ts';
import { DriverFault, type DriverHandle, driverInWorkerd } from './scaler-driver.ts';

describe('the driver for Amazon ECS, in workerd', () => {
  let ecs: FakeEcs;
  let driver: DriverHandle;
  before(async () => {
    ecs = await FakeEcs.start();
    driver = await driverInWorkerd(ecs.bindings);
  });
  after(async () => {
    await driver?.close();
    await ecs?.close();
  });
  beforeEach(() => {
    ecs.calls.length = 0;
    ecs.fault = null;
    ecs.isThere = true;
    ecs.desired = 1;
    ecs.pending = 0;
    ecs.unprotectable.clear();
    ecs.isProtected.clear();
  });
  const actions = () => ecs.calls.map(({ action }) => action);

  it('reads and changes the desired count, signed', async () => {
    ecs.desired = 3;
    ecs.pending = 1;
    assert.deepEqual(await driver.observe(), { desired: 3, running: 2, starting: 1 });
    await driver.scaleTo(5);
    assert.deepEqual(ecs.calls.at(-1), {
      action: 'UpdateService',
      input: { cluster: 'mantis', service: 'backends', desiredCount: 5 },
    });
    assert.deepEqual(actions(), ['DescribeServices', 'UpdateService'], 'nobody needs protection when tasks are added');
  });

  it('protects tasks that work before one goes, ten in a call, and lifts it from the one that is to go', async () => {
    ecs.desired = 14;
    await driver.observe();
    const keep = Array.from({ length: 13 }, (_, i) => ({ id: `ecs-busy${i}`, inFlight: i < 12 ? 2 : 0 }));
    await driver.scaleTo(13, ['ecs-free'], keep);
    const [, first, second, third, last] = ecs.calls;
    assert.equal((first?.input.tasks as string[] | undefined)?.length, 10);
    assert.equal(first?.input.expiresInMinutes, 60);
    assert.deepEqual(second?.input.tasks, ['busy10', 'busy11']);
    assert.deepEqual(third?.input, { cluster: 'mantis', tasks: ['free'], protectionEnabled: false });
    assert.deepEqual(last?.input.desiredCount, 13);
    assert.equal(ecs.isProtected.get('busy12'), undefined, 'who is idle may go as well');
  });

  it('ends nobody while one that works cannot be protected', async () => {
    ecs.desired = 2;
    await driver.observe();
    ecs.unprotectable.set('busy', 'DEPLOYMENT_BLOCKED');
    const fault = await driver.scaleTo(1, ['ecs-free'], [{ id: 'ecs-busy', inFlight: 1 }]).catch((error) => error);
    assert.match(fault.message, /busy: DEPLOYMENT_BLOCKED/);
    assert.equal(fault.isRetryable, true);
    assert.equal(ecs.desired, 2);
    ecs.unprotectable.set('busy', 'MISSING');
    await driver.scaleTo(1, ['ecs-free'], [{ id: 'ecs-busy', inFlight: 1 }]);
    assert.equal(ecs.desired, 1);
  });

  it('repeats what was throttled', async () => {
    ecs.fault = { kind: 'throttled', times: 2 };
    assert.equal((await driver.observe()).desired, 1);
    assert.equal(ecs.fault.times, 0);
    ecs.fault = { kind: 'throttled', times: 9 };
    const fault = await driver.observe().catch((error) => error);
    assert.match(fault.message, /^ECS DescribeServices: ThrottlingException: Rate exceeded/);
    assert.equal(fault.isRetryable, true);
    assert.equal(ecs.fault.times, 6, 'three attempts');
  });

  it('says that a connection that broke may hold the next time', async () => {
    ecs.fault = { kind: 'cut', times: 1 };
    const fault = await driver.observe().catch((error) => error);
    assert.equal(fault.isRetryable, true, fault.message);
    assert.equal((await driver.observe()).desired, 1);
  });

  it('takes a page of a proxy for a passing fault, and says little of it', async () => {
    ecs.fault = { kind: 'page', times: 9 };
    const fault = await driver.observe().catch((error) => error);
    assert.ok(fault instanceof DriverFault, String(fault));
    assert.equal(fault.isRetryable, true);
    assert.ok(fault.message.length < 400, fault.message);
  });

  it('says what somebody has to mend', async () => {
    ecs.fault = { kind: 'denied', times: 1 };
    const denied = await driver.scaleTo(2).catch((error) => error);
    assert.match(denied.message, /UpdateService: AccessDeniedException: not authorized to perform: ecs:UpdateService/);
    assert.equal(denied.isRetryable, false);
    ecs.isThere = false;
    const missing = await driver.observe().catch((error) => error);
    assert.match(missing.message, /expected an active service backends in mantis, found MISSING/);
    assert.equal(missing.isRetryable, false);
  });

  it('names the setting that is missing', async () => {
    const { AWS_REGION: _, ...rest } = ecs.bindings;
    const other = await driverInWorkerd(rest);
    await assert.rejects(other.observe(), /MANTIS_SCALER=ecs: expected AWS_REGION to be set/);
    await other.close();
  });
});
