/** Reflection (v1 and v1alpha) from the descriptors inside generated code: a caller needs no .proto file. */
import { Buffer } from "node:buffer";
import { type DescFile, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import type { Server } from "@grpc/grpc-js";
import type { PackageDefinition } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { file_google_rpc_error_details } from "gen/google/rpc/error_details_pb.ts";
import { Health } from "gen/grpc/health/v1/health_pb.ts";
import { ServerReflection } from "gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "gen/grpc/reflection/v1alpha/reflection_pb.ts";

/** The files and what they import, each once. */
function closureOf(roots: readonly DescFile[]): DescFile[] {
  const files = new Map<string, DescFile>();
  const visit = (file: DescFile): void => {
    if (files.has(file.proto.name)) return;
    files.set(file.proto.name, file);
    file.dependencies.forEach(visit);
  };
  roots.forEach(visit);
  return [...files.values()];
}

/**
 * Adds both versions of the reflection service. Health and reflection describe themselves too, from our own copies: what proto-loader
 * makes of a map field is refused by callers in Go. And ErrorInfo, so that a caller can read the details of an error.
 */
export function addReflection(server: Server, services: readonly DescService[]): void {
  const described = [...services, Health, ServerReflection, ServerReflectionAlpha];
  const roots = [...described.map((service) => service.file), file_google_rpc_error_details];
  const fileDescriptorProtos = closureOf(roots).map((file) =>
    Buffer.from(toBinary(FileDescriptorProtoSchema, file.proto))
  );
  const options = { services: described.map((service) => service.typeName) };
  // The library reads nothing of a definition but its file descriptors.
  const generated = { "arcus": { fileDescriptorProtos } } as unknown as PackageDefinition;
  new ReflectionService(generated, options).addToServer(server);
}
