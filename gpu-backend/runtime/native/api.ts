/**
 * ONNX Runtime's C API (include/onnxruntime/core/session/onnxruntime_c_api.h) through koffi: which slot of `struct OrtApi` a
 * function has and what it takes. The struct only grows at its end from version to version, so a slot never changes; the
 * start-up self-test proves the table against the library at hand.
 */
import koffi from 'koffi';

/** An address, or memory passed by its address. */
export type Pointer = bigint | null | ArrayBufferView;
type Argument = Pointer | number | string | readonly (string | null)[];
/** Native function. Returns a pointer (null = NULL), or nothing. */
export type NativeFunction = (...args: readonly Argument[]) => bigint | null;

const POINTER = 'void *';
const SIZE = 'size_t';
const INT = 'int';
const TEXT = 'str';
const TEXTS = 'str *';
type ArgumentType = typeof POINTER | typeof SIZE | typeof INT | typeof TEXT | typeof TEXTS | 'path';

/** Functions that return an OrtStatus*: NULL on success. Slot, then arguments; every out parameter is a pointer. */
const STATUS_FUNCTIONS = {
  createEnv: [3, INT, TEXT, POINTER],
  createSession: [7, POINTER, 'path', POINTER, POINTER],
  createSessionFromArray: [8, POINTER, POINTER, SIZE, POINTER, POINTER],
  createSessionOptions: [10, POINTER],
  setSessionExecutionMode: [13, POINTER, INT],
  enableProfiling: [14, POINTER, 'path'],
  disableMemPattern: [17, POINTER],
  disableCpuMemArena: [19, POINTER],
  setSessionLogSeverityLevel: [22, POINTER, INT],
  setSessionGraphOptimizationLevel: [23, POINTER, INT],
  setIntraOpNumThreads: [24, POINTER, INT],
  setInterOpNumThreads: [25, POINTER, INT],
  sessionGetInputCount: [30, POINTER, POINTER],
  sessionGetOutputCount: [31, POINTER, POINTER],
  sessionGetInputTypeInfo: [33, POINTER, SIZE, POINTER],
  sessionGetOutputTypeInfo: [34, POINTER, SIZE, POINTER],
  sessionGetInputName: [36, POINTER, SIZE, POINTER, POINTER],
  sessionGetOutputName: [37, POINTER, SIZE, POINTER, POINTER],
  createRunOptions: [39, POINTER],
  runOptionsSetTerminate: [46, POINTER],
  runOptionsUnsetTerminate: [47, POINTER],
  createTensorWithDataAsOrtValue: [49, POINTER, POINTER, SIZE, POINTER, SIZE, INT, POINTER],
  getTensorMutableData: [51, POINTER, POINTER],
  castTypeInfoToTensorInfo: [55, POINTER, POINTER],
  getTensorElementType: [60, POINTER, POINTER],
  getDimensionsCount: [61, POINTER, POINTER],
  getDimensions: [62, POINTER, POINTER, SIZE],
  createMemoryInfo: [68, TEXT, INT, INT, INT, POINTER],
  createCpuMemoryInfo: [69, INT, INT, POINTER],
  allocatorFree: [76, POINTER, POINTER],
  getAllocatorWithDefaultOptions: [78, POINTER],
  sessionEndProfiling: [110, POINTER, POINTER, POINTER],
  addSessionConfigEntry: [130, POINTER, TEXT, TEXT],
  runWithBinding: [133, POINTER, POINTER, POINTER],
  createIoBinding: [134, POINTER, POINTER],
  bindInput: [136, POINTER, POINTER, POINTER],
  bindOutput: [137, POINTER, POINTER, POINTER],
  bindOutputToDevice: [138, POINTER, POINTER, POINTER],
  getBoundOutputNames: [139, POINTER, POINTER, POINTER, POINTER, POINTER],
  getBoundOutputValues: [140, POINTER, POINTER, POINTER, POINTER],
  addInitializer: [150, POINTER, TEXT, POINTER],
  addRunConfigEntry: [165, POINTER, TEXT, TEXT],
  createPrepackedWeightsContainer: [166, POINTER],
  createSessionWithPrepackedWeightsContainer: [168, POINTER, 'path', POINTER, POINTER, POINTER],
  createSessionFromArrayWithPrepackedWeightsContainer: [169, POINTER, POINTER, SIZE, POINTER, POINTER, POINTER],
  synchronizeBoundInputs: [202, POINTER],
  synchronizeBoundOutputs: [203, POINTER],
  appendExecutionProviderCuda: [204, POINTER, POINTER],
  createCudaProviderOptions: [205, POINTER],
  updateCudaProviderOptions: [206, POINTER, TEXTS, TEXTS, SIZE],
  addExternalInitializers: [210, POINTER, TEXTS, POINTER, SIZE],
  appendExecutionProvider: [216, POINTER, TEXT, TEXTS, TEXTS, SIZE],
  getTensorElementTypeAndShapeDataReference: [414, POINTER, POINTER, POINTER, POINTER],
} as const satisfies Record<string, readonly [number, ...ArgumentType[]]>;

/** Functions that return nothing. */
const VOID_FUNCTIONS = {
  releaseEnv: [92, POINTER],
  releaseStatus: [93, POINTER],
  releaseMemoryInfo: [94, POINTER],
  releaseSession: [95, POINTER],
  releaseValue: [96, POINTER],
  releaseRunOptions: [97, POINTER],
  releaseTypeInfo: [98, POINTER],
  releaseSessionOptions: [100, POINTER],
  releaseIoBinding: [135, POINTER],
  clearBoundInputs: [141, POINTER],
  clearBoundOutputs: [142, POINTER],
  releasePrepackedWeightsContainer: [167, POINTER],
  releaseCudaProviderOptions: [208, POINTER],
} as const satisfies Record<string, readonly [number, ...ArgumentType[]]>;

const GET_ERROR_MESSAGE_SLOT = 2;
/** Slots that this file needs of the struct. */
const SLOTS = 415;
const POINTER_BYTES = 8;

type StatusName = keyof typeof STATUS_FUNCTIONS;
type VoidName = keyof typeof VOID_FUNCTIONS;

/** Every status function throws what ONNX Runtime says instead of returning a status. */
export type OrtApi = { readonly [K in StatusName]: (...args: readonly Argument[]) => void } & {
  readonly [K in VoidName]: (...args: readonly Argument[]) => void;
} & {
  /** Takes a status of `asyncRun`: throws its message and releases it. */
  throwStatus(status: bigint | null): void;
  /** RunWithBinding on a thread of koffi's pool; the callback gets a status for `throwStatus`. */
  readonly runWithBindingAsync: (
    session: Pointer,
    runOptions: Pointer,
    binding: Pointer,
    done: (error: unknown, status: bigint | null) => void,
  ) => void;
};

/**
 * Reads the function table of a library version.
 * @param api address of `struct OrtApi`, as OrtApiBase.GetApi gave it
 */
export function readApi(api: bigint): OrtApi {
  const table = new BigUint64Array(koffi.view(api, SLOTS * POINTER_BYTES));
  const decode = (slot: number, result: string, types: readonly ArgumentType[]) => {
    const address = table[slot];
    if (address === undefined || address === 0n) throw new Error(`slot ${slot} of ONNX Runtime's API is empty`);
    const path = process.platform === 'win32' ? 'str16' : 'str';
    return koffi.decode(
      address,
      koffi.proto(
        result,
        types.map((t) => (t === 'path' ? path : t)),
      ),
    );
  };
  const errorMessage: (status: bigint) => string = decode(GET_ERROR_MESSAGE_SLOT, TEXT, [POINTER]);
  const functions: Record<string, unknown> = {};
  for (const [name, [slot, ...types]] of Object.entries(VOID_FUNCTIONS)) functions[name] = decode(slot, 'void', types);
  const releaseStatus = functions.releaseStatus as (status: bigint) => void;
  const throwStatus = (status: bigint | null): void => {
    if (status === null) return;
    const message = errorMessage(status);
    releaseStatus(status);
    throw new Error(message);
  };
  for (const [name, [slot, ...types]] of Object.entries(STATUS_FUNCTIONS)) {
    const call: NativeFunction = decode(slot, POINTER, types);
    functions[name] = (...args: Argument[]) => {
      const status = call(...args);
      if (status !== null) throwStatus(status);
    };
  }
  const [runSlot, ...runTypes] = STATUS_FUNCTIONS.runWithBinding;
  functions.runWithBindingAsync = decode(runSlot, POINTER, runTypes).async;
  functions.throwStatus = throwStatus;
  return functions as OrtApi;
}
