/** channeld: owns a channel from lock-in until shutdown. */
import { runSubd } from "subd/main.ts";
import { start } from "./start.ts";

if (import.meta.main) await runSubd("channeld", start);
