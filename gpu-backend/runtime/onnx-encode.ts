import type { DType } from '../graph/graph.ts';
import type {
  OnnxAttr,
  OnnxExternalTensor,
  OnnxModel,
  OnnxNode,
  OnnxSubgraph,
  OnnxTensor,
  OnnxValueInfo,
} from '../graph/lowering.ts';
import { ProtobufWriter } from './protobuf.ts';

/** ONNX TensorProto.DataType numbers (onnx.proto). */
export const ONNX_ELEMENT_TYPE: Readonly<Record<DType, number>> = { f32: 1, u8: 2, i8: 3, i64: 7, bool: 9, f16: 10 };

/** Standard operators as of this opset; ONNX Runtime 1.30 supports it completely. */
const OPSET = 20;
const IR_VERSION = 9;

function writeAttribute(w: ProtobufWriter, name: string, value: OnnxAttr): void {
  w.string(1, name);
  if (typeof value === 'number') w.float(2, value).int(20, 1);
  else if (typeof value === 'bigint') w.int(3, value).int(20, 2);
  else if (typeof value === 'string') w.string(4, value).int(20, 3);
  else if ('int' in value) w.int(3, value.int).int(20, 2);
  else if ('ints' in value) {
    for (const v of value.ints) w.int(8, v);
    w.int(20, 7);
  } else if ('graph' in value) w.message(6, (body) => writeSubgraph(body, value.graph)).int(20, 5);
  else {
    for (const v of value) w.float(7, v);
    w.int(20, 6);
  }
}

function writeNode(w: ProtobufWriter, node: OnnxNode): void {
  for (const name of node.inputs) w.string(1, name);
  for (const name of node.outputs) w.string(2, name);
  w.string(3, node.name).string(4, node.opType);
  for (const [name, value] of Object.entries(node.attrs)) w.message(5, (a) => writeAttribute(a, name, value));
  if (node.domain !== '') w.string(7, node.domain);
}

function writeTensor(w: ProtobufWriter, tensor: OnnxTensor): void {
  if (tensor.shape.length > 0) w.packedInts(1, tensor.shape);
  w.int(2, ONNX_ELEMENT_TYPE[tensor.dtype]).string(8, tensor.name);
  w.bytes(9, new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength));
}

function writeExternalTensor(w: ProtobufWriter, tensor: OnnxExternalTensor): void {
  if (tensor.shape.length > 0) w.packedInts(1, tensor.shape);
  w.int(2, ONNX_ELEMENT_TYPE[tensor.dtype]).string(8, tensor.name);
  const entries = { location: tensor.location, offset: tensor.offsetBytes, length: tensor.lengthBytes };
  for (const [key, value] of Object.entries(entries)) w.message(13, (e) => e.string(1, key).string(2, String(value)));
  w.int(14, 1); // data_location = EXTERNAL
}

function writeValueInfo(w: ProtobufWriter, info: OnnxValueInfo): void {
  w.string(1, info.name).message(2, (type) =>
    type.message(1, (tensor) => {
      tensor.int(1, ONNX_ELEMENT_TYPE[info.dtype]);
      tensor.message(2, (shape) => {
        for (const d of info.shape)
          shape.message(1, (dim) => (typeof d === 'number' ? dim.int(1, d) : dim.string(2, d)));
      });
    }),
  );
}

function writeSubgraph(w: ProtobufWriter, { inputs, outputs, nodes }: OnnxSubgraph): void {
  for (const node of nodes) w.message(1, (n) => writeNode(n, node));
  w.string(2, 'body');
  for (const info of inputs) w.message(11, (i) => writeValueInfo(i, info));
  for (const info of outputs) w.message(12, (o) => writeValueInfo(o, info));
}

/** Serialises a lowered model as an ONNX ModelProto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). */
export function encodeOnnx(model: OnnxModel): Uint8Array {
  return new ProtobufWriter()
    .int(1, IR_VERSION)
    .string(2, 'mantis-edge')
    .message(7, (graph) => {
      for (const node of model.nodes) graph.message(1, (w) => writeNode(w, node));
      graph.string(2, 'graph');
      for (const tensor of model.initializers) graph.message(5, (w) => writeTensor(w, tensor));
      for (const tensor of model.externals) graph.message(5, (w) => writeExternalTensor(w, tensor));
      for (const info of model.inputs) graph.message(11, (w) => writeValueInfo(w, info));
      for (const info of model.outputs) graph.message(12, (w) => writeValueInfo(w, info));
    })
    .message(8, (w) => w.string(1, '').int(2, OPSET))
    .message(8, (w) => w.string(1, 'com.microsoft').int(2, 1))
    .finish();
}
