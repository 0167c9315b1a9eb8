#!/usr/bin/env node
// The package's bin. Sources are TypeScript and run as they are, unless they were built: then nothing has to be compiled.
import { builtMain } from './built.mjs';

const built = builtMain(new URL('../../', import.meta.url));
if (built === null) (await import('tsx/esm/api')).register();
const { main } = await import(built ?? './main.ts');
await main(process.argv);
