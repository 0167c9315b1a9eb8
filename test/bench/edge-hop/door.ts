/**
 * The door in a process of its own, so that its log lines, which are part of its work, can go to a file.
 *
 *     fork(door.ts, [dataDir, secret, apiKey]) → message {url, workerd}
 */
import { startEdge } from '../../../deploy/edge.ts';
import { workerdOf } from './processes.ts';

const [dataDir = '', backendSecret = '', apiKey = ''] = process.argv.slice(2);
const vars = { LOG_LEVEL: process.env.MANTIS_LOG_LEVEL ?? '' };
const edge = await startEdge({ port: 0, dataDir, backendSecret, apiKey, vars });
process.send?.({ url: edge.url, workerd: workerdOf(process.pid) });
process.on('disconnect', () => void edge.dispose().then(() => process.exit()));
