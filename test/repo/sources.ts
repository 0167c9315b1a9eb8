import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/** The repository's root folder, absolute. */
export const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');

const NOT_OURS = new Set(['node_modules', '.git', '.tsbuild', '.mantis', '.wrangler', 'dist', 'coverage']);

/** Paths of the files that belong to the repository, relative to its root: tracked, or new and not ignored. */
export function repositoryFiles(): string[] {
  if (existsSync(join(root, '.git'))) {
    const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '-z'], {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 64 << 20,
    });
    return [...new Set(listed.split('\0'))]
      .filter((path) => path !== '' && isOurs(path) && existsSync(join(root, path)))
      .sort();
  }
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter(isOurs)
    .sort();
}

/** A linked `node_modules` is not a folder to git, and not ours all the same. */
function isOurs(path: string): boolean {
  return !path.split('/').some((part) => NOT_OURS.has(part));
}

/** One place where a file names another module. */
export interface Import {
  /** Importing file, relative to the root. */
  readonly from: string;
  /** Imported file relative to the root, or the bare package name. */
  readonly to: string;
  readonly line: number;
  /** False for `import type` and for imports whose every name is a type: they vanish when the program runs. */
  readonly atRunTime: boolean;
  readonly kind: 'static' | 'dynamic' | 'url';
}

/**
 * Every module a TypeScript file names: import and export declarations, `import('…')`, and
 * `new URL('./x.ts', import.meta.url)`, which is how worker threads and child processes are started.
 */
export function importsOf(path: string): Import[] {
  const source = parse(path);
  const found: Import[] = [];
  const add = (node: ts.Node, specifier: string, atRunTime: boolean, kind: Import['kind']): void => {
    const to = specifier.startsWith('.') ? join(dirname(path), specifier) : packageName(specifier);
    const line = source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;
    found.push({ from: path, to, line, atRunTime, kind });
  };
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) {
      add(node, node.moduleSpecifier.text, !isTypeOnly(node.importClause), 'static');
    } else if (ts.isExportDeclaration(node) && node.moduleSpecifier !== undefined) {
      if (ts.isStringLiteral(node.moduleSpecifier)) add(node, node.moduleSpecifier.text, !node.isTypeOnly, 'static');
    } else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      const [specifier] = node.arguments;
      if (specifier !== undefined && ts.isStringLiteral(specifier)) add(node, specifier.text, true, 'dynamic');
    } else if (ts.isNewExpression(node) && node.expression.getText(source) === 'URL') {
      const [specifier, base] = node.arguments ?? [];
      const isModule = base?.getText(source) === 'import.meta.url';
      if (isModule && specifier !== undefined && ts.isStringLiteral(specifier) && /\.m?[tj]s$/.test(specifier.text)) {
        add(node, specifier.text, true, 'url');
      }
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** Fails with one offence a line, so that a reader sees places and not a diff of arrays. */
export function refuse(offences: readonly string[]): void {
  assert.ok(offences.length === 0, `${offences.length} found\n${offences.join('\n')}`);
}

const parsed = new Map<string, ts.SourceFile>();

/** The syntax tree of a file, read once. */
export function parse(path: string): ts.SourceFile {
  const known = parsed.get(path);
  if (known !== undefined) return known;
  const text = readFileSync(join(root, path), 'utf8');
  const source = ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true, ts.ScriptKind.TS);
  parsed.set(path, source);
  return source;
}

function isTypeOnly(clause: ts.ImportClause | undefined): boolean {
  if (clause === undefined) return false;
  if (clause.isTypeOnly) return true;
  if (clause.name !== undefined || clause.namedBindings === undefined) return false;
  if (!ts.isNamedImports(clause.namedBindings)) return false;
  return clause.namedBindings.elements.length > 0 && clause.namedBindings.elements.every((name) => name.isTypeOnly);
}

function packageName(specifier: string): string {
  if (specifier.startsWith('node:')) return specifier;
  const parts = specifier.split('/');
  return specifier.startsWith('@') ? parts.slice(0, 2).join('/') : (parts[0] ?? specifier);
}
