// node build.js SOURCE OUTPUT: makes a component of the world in wit/.
import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [source, output] = process.argv.slice(2);
const { component } = await componentize(await readFile(source, "utf8"), {
  witPath: "wit",
  worldName: "application",
});
await writeFile(output, component);
