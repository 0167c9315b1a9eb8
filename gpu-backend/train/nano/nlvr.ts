export * from '../../io/nlvr.ts';
