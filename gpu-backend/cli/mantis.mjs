#!/usr/bin/env node
// The package's bin. Sources are TypeScript and run as they are; this registers the loader and hands over.
import { register } from 'tsx/esm/api';

register();
const { main } = await import('./main.ts');
await main(process.argv);
