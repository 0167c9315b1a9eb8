import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, it } from 'node:test';
import { FakeKubernetes } from './fake-kubernetes.ts';
import { type DriverHandle, driverInWorkerd } from './scaler-driver.ts';

describe('the driver for Kubernetes, in workerd', () => {
  let cluster: FakeKubernetes;
  let driver: DriverHandle;
  before(async () => {
    cluster = await FakeKubernetes.start();
    driver = await driverInWorkerd(cluster.bindings);
  });
  after(async () => {
    await driver?.close();
    await cluster?.close();
  });
  beforeEach(() => {
    cluster.calls.length = 0;
    cluster.replicas = cluster.ready = 1;
    cluster.token = 'token-of-the-account';
    cluster.isForbidden = false;
    cluster.pods.clear();
  });

  it('reads the deployment and patches its scale', async () => {
    cluster.replicas = 3;
    cluster.ready = 1;
    assert.deepEqual(await driver.observe(), { desired: 3, running: 1, starting: 2 });
    await driver.scaleTo(4);
    assert.equal(cluster.replicas, 4);
    const scale = '/apis/apps/v1/namespaces/vision/deployments/backends/scale';
    assert.deepEqual(cluster.calls.slice(1), [`GET ${scale}`, `PATCH ${scale}`]);
    await driver.scaleTo(4);
    assert.equal(cluster.calls.at(-1), `GET ${scale}`, 'what stands is not written again');
  });

  it('has the pod go that is free, whatever was said before', async () => {
    cluster.replicas = 3;
    await driver.observe();
    cluster.pods.set('free', '9').set('busy', '-1000');
    await driver.scaleTo(
      2,
      ['pod-free'],
      [
        { id: 'pod-busy', inFlight: 3 },
        { id: 'pod-gone', inFlight: 1 },
        { id: 'backend-of-another-kind', inFlight: 1 },
      ],
    );
    assert.deepEqual(
      [...cluster.pods],
      [
        ['free', '-1000'],
        ['busy', '3'],
      ],
    );
    assert.equal(cluster.replicas, 2);
  });

  it('reads again when somebody else has changed it, and gives up on one who always does', async () => {
    cluster.rivals = 2;
    await driver.scaleTo(3);
    assert.equal(cluster.replicas, 3);
    cluster.rivals = 9;
    const fault = await driver.scaleTo(5).catch((error) => error);
    assert.match(fault.message, /409 the object has been modified/);
    assert.equal(fault.isRetryable, true);
    cluster.rivals = 0;
  });

  it('says what somebody has to mend', async () => {
    cluster.isForbidden = true;
    const forbidden = await driver.scaleTo(2).catch((error) => error);
    assert.match(forbidden.message, /Kubernetes GET .*scale: 403 deployments.apps "backends" is forbidden/);
    assert.equal(forbidden.isRetryable, false);
    cluster.token = 'another';
    const expired = await driver.observe().catch((error) => error);
    assert.match(expired.message, /401 Unauthorized/);
    assert.equal(expired.isRetryable, false);
  });

  it('takes no answer for a passing fault', async () => {
    const other = await driverInWorkerd({ ...cluster.bindings, KUBERNETES_API: 'http://127.0.0.1:9' });
    const fault = await other.observe().catch((error) => error);
    assert.equal(fault.isRetryable, true, fault.message);
    await other.close();
  });

  it('names the setting that is missing', async () => {
    const { KUBERNETES_TOKEN: _, ...rest } = cluster.bindings;
    const other = await driverInWorkerd(rest);
    await assert.rejects(other.observe(), /MANTIS_SCALER=kubernetes: expected KUBERNETES_TOKEN to be set/);
    await other.close();
  });
});
