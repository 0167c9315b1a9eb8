import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';
import { parse, refuse, repositoryFiles, root } from './sources.ts';

const files = repositoryFiles();
const typescriptFiles = files.filter((path) => path.endsWith('.ts'));
const textFiles = files.filter(
  (path) => /\.(ts|mjs|js|json|jsonc|md|sql|html|css|svg|yaml|yml|sh)$/.test(path) && path !== 'package-lock.json',
);

/** The platform asks for a default export here. */
const DEFAULT_EXPORT_ALLOWED = new Set(['edge/worker.ts', 'test/wire/edge/scaler-worker.ts']);

/** Every node of every TypeScript file that the predicate names an offence in. */
function offences(find: (node: ts.Node, path: string) => string | undefined): string[] {
  const found: string[] = [];
  for (const path of typescriptFiles) {
    const source = parse(path);
    const visit = (node: ts.Node): void => {
      const what = find(node, path);
      if (what !== undefined) {
        const { line } = source.getLineAndCharacterOfPosition(node.getStart(source));
        found.push(`${path}:${line + 1} ${what}`);
      }
      ts.forEachChild(node, visit);
    };
    visit(source);
  }
  return found;
}

/** Every line of every text file that the pattern matches. */
function lines(pattern: RegExp, among: readonly string[] = textFiles): string[] {
  return among.flatMap((path) =>
    readFileSync(join(root, path), 'utf8')
      .split('\n')
      .flatMap((line, index) => (pattern.test(line) ? [`${path}:${index + 1} ${line.trim().slice(0, 120)}`] : [])),
  );
}

test('nothing is typed any', () => {
  refuse(offences((node) => (node.kind === ts.SyntaxKind.AnyKeyword ? 'any: narrow unknown instead' : undefined)));
});

test('closed sets are string unions, not enums', () => {
  refuse(offences((node) => (ts.isEnumDeclaration(node) ? `enum ${node.name.text}` : undefined)));
});

test('exports have names', () => {
  refuse(
    offences((node, path) => {
      const isDefault =
        ts.isExportAssignment(node) ||
        (ts.canHaveModifiers(node) &&
          ts.getModifiers(node)?.some((m) => m.kind === ts.SyntaxKind.DefaultKeyword) === true);
      return isDefault && !DEFAULT_EXPORT_ALLOWED.has(path) ? 'default export' : undefined;
    }),
  );
});

test('a file is named after what it holds', () => {
  refuse(
    files.filter(
      (path) => /^(utils?|helpers?|misc|common|index)\.[a-z]+$/.test(basename(path)) && path.endsWith('.ts'),
    ),
  );
});

test('no compiler or linter complaint is switched off', () => {
  refuse(lines(new RegExp(['@ts', '-(ignore|expect-error|nocheck)|biome', '-ignore'].join('')), typescriptFiles));
});

test('unfinished work is in the tracker, not in comments', () => {
  refuse(lines(new RegExp(`\\b(${['TO', 'DO|FIX', 'ME|X', 'XX|HA', 'CK'].join('')})\\b`)));
});

test('no file names a place on the machine it was written on', () => {
  refuse(lines(/(?<![\w.$}])\/(work|home|Users|root)\/\w/));
});

test('no secret looks like a real one', () => {
  refuse(
    lines(
      /\b(sk-(live|proj)-[\w-]{20,}|AKIA[0-9A-Z]{16}|ghp_\w{36}|whsec_[A-Za-z0-9+/]{43}=|-----BEGIN [A-Z ]*PRIVATE KEY)/,
    ),
  );
});
