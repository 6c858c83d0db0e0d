/** Everything that is not a test: format, lint, types, generated code, import walls. Run by `deno task check`. */
import { createProgress } from "./progress.ts";

const STEPS: readonly { readonly title: string; readonly args: readonly string[] }[] = [
  { title: "format", args: ["fmt", "--check", "--quiet"] },
  { title: "lint", args: ["lint", "--quiet"] },
  { title: "types", args: ["check", "--quiet", "."] },
  { title: "generated code matches proto/", args: ["run", "-A", "tools/gen.ts", "check"] },
  { title: "import walls", args: ["run", "--allow-read", "tools/walls.ts"] },
];

const progress = createProgress();
let failed = 0;
for (const { title, args } of STEPS) {
  const step = progress.step(title);
  const command = new Deno.Command(Deno.execPath(), { args: [...args], stdout: "piped", stderr: "piped" });
  const { success, stdout, stderr } = await command.output();
  if (success) {
    step.done();
    continue;
  }
  failed++;
  step.fail();
  console.error(new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr));
}
if (failed > 0) Deno.exit(1);
