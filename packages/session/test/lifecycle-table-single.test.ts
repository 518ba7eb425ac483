import { testTable } from './support/lifecycle-table.js'

testTable('single')
