/** closingd: owns a channel from the agreed shutdown until a close is signed by both. */
import { runSubd } from "subd/main.ts";
import { start } from "./start.ts";

if (import.meta.main) await runSubd("closingd", start);
