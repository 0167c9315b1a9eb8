import { testNativeBinding } from './self-test.ts';

/** How sessions call ONNX Runtime. `auto`: through its C API where that works, else through onnxruntime-node's binding. */
export type BindingChoice = 'auto' | 'node' | 'native';

let tested: { readonly failure?: string } | undefined;

/** Why the C API cannot be used here; undefined when it can. Tested once in each thread. */
export function nativeFailure(): string | undefined {
  if (tested === undefined) {
    try {
      testNativeBinding();
      tested = {};
    } catch (error) {
      tested = { failure: error instanceof Error ? error.message : String(error) };
    }
  }
  return tested.failure;
}

let warned = false;

/**
 * The binding of a new session. The environment variable MANTIS_BINDING (auto, node or native) overrides the choice.
 * @throws Error when `native` is asked for and does not work here
 */
export function chooseBinding(choice: BindingChoice = 'auto', env = process.env): 'node' | 'native' {
  const asked = env.MANTIS_BINDING ?? choice;
  if (asked === 'node') return 'node';
  if (asked !== 'auto' && asked !== 'native')
    throw new Error(`MANTIS_BINDING is "${asked}"; it can be auto, node or native`);
  const failure = nativeFailure();
  if (failure === undefined) return 'native';
  if (asked === 'native') throw new Error(`ONNX Runtime's C API cannot be called here: ${failure}`);
  if (!warned) process.emitWarning(`sessions copy their outputs (onnxruntime-node's binding), because: ${failure}`);
  warned = true;
  return 'node';
}
