/** dualopend: owns a channel from its first message until both sides said channel_ready. */
import { runSubd } from "subd/main.ts";
import { start } from "./start.ts";

if (import.meta.main) await runSubd("dualopend", start);
