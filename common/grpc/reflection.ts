/** Reflection (v1 and v1alpha) from the descriptors inside generated code: a caller needs no .proto file. */
import { Buffer } from "node:buffer";
import { type DescFile, type DescService, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import type { Server } from "@grpc/grpc-js";
import { loadSync, type PackageDefinition } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { protoPath as healthProtoPath } from "grpc-health-check";

/** A file and what it imports, each once. */
function filesOf(services: readonly DescService[]): Map<string, DescFile> {
  const files = new Map<string, DescFile>();
  const visit = (file: DescFile): void => {
    if (files.has(file.proto.name)) return;
    files.set(file.proto.name, file);
    file.dependencies.forEach(visit);
  };
  services.forEach((service) => visit(service.file));
  return files;
}

/** Adds both versions of the reflection service, describing `services` and health. */
export function addReflection(server: Server, services: readonly DescService[]): void {
  const descriptors = [...filesOf(services).values()].map((file) =>
    Buffer.from(toBinary(FileDescriptorProtoSchema, file.proto))
  );
  // The library reads nothing of a definition but its file descriptors.
  const generated: PackageDefinition = {
    "arcus.generated": {
      format: "Protocol Buffer 3 DescriptorProto",
      type: {},
      fileDescriptorProtos: descriptors,
    } as unknown as PackageDefinition[string],
  };
  new ReflectionService({ ...generated, ...loadSync(healthProtoPath) }).addToServer(server);
}
