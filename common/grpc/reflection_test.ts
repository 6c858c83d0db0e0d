import assert from "node:assert/strict";
import { create, createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { client, dial } from "common/grpc/client.ts";
import { echoService } from "common/grpc/echo_service.ts";
import { createServer } from "common/grpc/server.ts";
import { createLogger } from "common/log.ts";
import { ServerReflection } from "gen/grpc/reflection/v1/reflection_pb.ts";
import { ServerReflection as ServerReflectionAlpha } from "gen/grpc/reflection/v1alpha/reflection_pb.ts";

for (const service of [ServerReflection, ServerReflectionAlpha]) {
  const version = service.typeName.split(".")[2];
  Deno.test({
    name: `grpc: reflection ${version} is enough to list, describe and call`,
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      const server = createServer({
        services: [echoService().service],
        log: createLogger({ sink: () => {} }),
      });
      const channel = dial(await server.listen("127.0.0.1:0"));
      const reflection = client(service, channel);
      async function ask(
        question: { case: "listServices" | "fileContainingSymbol" | "fileByFilename"; value: string },
      ) {
        async function* questions() {
          yield { messageRequest: question };
        }
        for await (const { messageResponse } of reflection.serverReflectionInfo(questions())) {
          return messageResponse;
        }
        return assert.fail("no answer");
      }

      const listed = await ask({ case: "listServices", value: "*" });
      assert(listed.case === "listServicesResponse");
      assert.deepEqual(listed.value.service.map(({ name }) => name).sort(), [
        "arcus.testing.v1.Echo",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
      ]);

      const found = await ask({ case: "fileContainingSymbol", value: "arcus.testing.v1.Echo" });
      assert(found.case === "fileDescriptorResponse");
      const file = found.value.fileDescriptorProto.map((bytes) =>
        fromBinary(FileDescriptorProtoSchema, bytes)
      );
      const Echo = createFileRegistry(create(FileDescriptorSetSchema, { file })).getService(
        "arcus.testing.v1.Echo",
      );
      assert(Echo !== undefined);
      const unary = client(Echo, channel)["unary"];
      assert(unary !== undefined);
      const answer: unknown = await Reflect.apply(unary, undefined, [{ number: 5n }]);
      assert(typeof answer === "object" && answer !== null);
      assert.equal(Reflect.get(answer, "number"), 5n);

      // A map field, which callers in Go check strictly, and the details of errors.
      for (const symbol of ["grpc.health.v1.HealthListResponse", "google.rpc.ErrorInfo"]) {
        const holder = await ask({ case: "fileContainingSymbol", value: symbol });
        assert(holder.case === "fileDescriptorResponse", symbol);
        const files = holder.value.fileDescriptorProto.map((bytes) =>
          fromBinary(FileDescriptorProtoSchema, bytes)
        );
        const message = createFileRegistry(create(FileDescriptorSetSchema, { file: files })).getMessage(
          symbol,
        );
        assert(message !== undefined && message.fields.some((field) => field.fieldKind === "map"), symbol);
        const entries = message.proto.nestedType.map(({ name }) => name);
        assert(["StatusesEntry", "MetadataEntry"].includes(entries[0] ?? ""), entries.join());
      }
      assert.equal(
        (await ask({ case: "fileContainingSymbol", value: "nobody.Knows" })).case,
        "errorResponse",
      );
      channel.close();
      server.closeAfterClients();
    },
  });
}
